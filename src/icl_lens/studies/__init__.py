"""Studies, with one package per paper and one folder per study."""

"""The studies: one package a paper, one folder a study."""

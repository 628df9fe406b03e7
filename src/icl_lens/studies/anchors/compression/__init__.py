"""Study ``compression``: predictions with compressed demonstrations (Table 2)."""

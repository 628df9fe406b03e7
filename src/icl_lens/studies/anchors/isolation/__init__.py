"""Study ``isolation``: predictions with isolated label words (Figures 4 and 8)."""

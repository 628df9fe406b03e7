"""The study isolation: predictions with label words isolated (Figures 4 and 8)."""

"""Study ``diagnosis``: class confusion predicted from the keys of the label words (Figures 6 and 14)."""

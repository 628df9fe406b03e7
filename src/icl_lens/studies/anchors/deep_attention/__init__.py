"""Study ``deep_attention``: attention of the last position to label words (Figure 5)."""

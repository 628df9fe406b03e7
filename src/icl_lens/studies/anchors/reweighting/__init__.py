"""Study ``reweighting``: trained factors on the attention to label words (Table 1)."""

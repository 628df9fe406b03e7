"""Study ``ch_labels``: predictions with other labels in the demonstrations, and without demonstrations."""

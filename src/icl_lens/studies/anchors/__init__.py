"""Studies that replicate *Label Words are Anchors* (Wang et al., EMNLP 2023)."""

"""The study label_probes: linear probes of keys and values around label words (Figure 5)."""

"""The study label_probes."""

"""Statistics computed from tables: confidence intervals, ranks, AUC, tests, similarity, probes and accuracy."""

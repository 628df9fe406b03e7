"""Statistics of tables: confidence intervals, ranks, AUC, tests, similarity, probes, accuracy."""

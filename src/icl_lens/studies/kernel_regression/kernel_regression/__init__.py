"""The study kernel_regression: attention of the last position to each demonstration (Figures 2 and 3, Table 2)."""

"""The study kernel_regression_controls."""

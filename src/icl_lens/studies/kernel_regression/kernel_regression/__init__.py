"""The study kernel_regression."""

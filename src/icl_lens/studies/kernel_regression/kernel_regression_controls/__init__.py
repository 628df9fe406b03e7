"""The study kernel_regression_controls: kernel regression on permuted, flipped and reordered demonstrations."""

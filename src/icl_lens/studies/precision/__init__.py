"""Table of the effect of number formats and fast products on results. It contains no study."""

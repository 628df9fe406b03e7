"""Table of how much number formats and fast products change results. It contains no study."""

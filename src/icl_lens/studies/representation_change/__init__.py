"""Study of how representations change with examples in context (Yousefi et al., 2024), and its two tasks."""

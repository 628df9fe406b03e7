"""The study prediction_similarity: how alike the next tokens of a query's and a demonstration's text are (Figure 4)."""

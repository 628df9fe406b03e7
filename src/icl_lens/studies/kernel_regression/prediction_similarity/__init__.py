"""The study prediction_similarity: similarity of next-token predictions for a query's and a demonstration's text (Figure 4)."""

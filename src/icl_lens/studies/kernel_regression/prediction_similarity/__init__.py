"""The study prediction_similarity."""

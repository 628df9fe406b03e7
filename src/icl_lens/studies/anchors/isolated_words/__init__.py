"""The study isolated_words: the likeliest next tokens with label words isolated (Table 5)."""

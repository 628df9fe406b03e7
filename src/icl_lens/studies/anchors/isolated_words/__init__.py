"""Study ``isolated_words``: the most likely next tokens with isolated label words (Table 5)."""

"""Study ``representation_change``: answers, representations and attention with and without examples."""

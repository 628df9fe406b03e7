"""Study ``tokens``: the tokens of each prompt."""

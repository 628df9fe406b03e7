"""Study ``flow``: the information flow of a few prompts along each edge."""

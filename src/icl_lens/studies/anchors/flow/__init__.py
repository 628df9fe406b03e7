"""Study ``flow``: the information flow of a few prompts along every edge."""

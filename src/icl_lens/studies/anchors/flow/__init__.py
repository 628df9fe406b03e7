"""The study flow: the information flow of a few prompts along every edge."""

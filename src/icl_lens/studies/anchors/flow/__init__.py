"""The information flow of a few prompts along every edge."""

"""The study rewritten: predictions for test texts that are rewritten by rules (Table 1)."""

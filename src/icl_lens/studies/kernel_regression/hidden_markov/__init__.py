"""The study hidden_markov: kernel regression and the exact posterior on random hidden Markov models (Table 3)."""

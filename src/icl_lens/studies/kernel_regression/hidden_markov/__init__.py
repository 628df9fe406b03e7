"""The study hidden_markov."""

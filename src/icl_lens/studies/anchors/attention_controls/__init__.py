"""Study ``attention_controls``: deep attention with shuffled labels and with an untrained copy."""

"""Study ``isolation_controls``: isolation with shuffled labels and with an untrained copy."""

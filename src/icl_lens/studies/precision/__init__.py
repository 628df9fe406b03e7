"""The table of how far number formats and fast products move results; there is no study here."""

"""How far number formats and fast products move results."""

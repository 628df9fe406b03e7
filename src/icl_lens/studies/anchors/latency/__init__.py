"""The study latency: how long a query takes with full and with compressed demonstrations (Tables 3 and 6)."""

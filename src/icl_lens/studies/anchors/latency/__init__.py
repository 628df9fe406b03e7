"""Study ``latency``: the time per query with full and with compressed demonstrations (Tables 3 and 6)."""

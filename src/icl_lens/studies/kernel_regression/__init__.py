"""Studies of the paper *In-context learning as kernel regression* (Han et al., TMLR 2025)."""

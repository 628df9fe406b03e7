"""Measured reliability: interrupted runs, damaged results and invalid inputs; see docs/reliability.md."""

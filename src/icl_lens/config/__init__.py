"""The config as typed models, its schema and reference, and the plan of a run."""

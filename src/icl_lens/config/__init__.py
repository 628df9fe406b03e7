"""What a user writes, as typed models; its schema, its reference, and the plan of a run."""

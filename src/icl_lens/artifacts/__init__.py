"""What a step writes: tables, tensors and records with a contract, their provenance, and the audit of a results folder."""

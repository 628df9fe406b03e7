"""The paper's tasks, and a user's own."""

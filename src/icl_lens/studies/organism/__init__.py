"""The learning curve of the small model that icl-lens trains."""

"""The figure of a training: how a model comes to learn in context; there is no study here."""

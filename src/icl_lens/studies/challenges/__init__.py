"""Studies of objections to *Label Words are Anchors*."""

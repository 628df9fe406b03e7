"""The exception for invalid user input."""

from __future__ import annotations


class InputError(Exception):
    """Invalid input (config, data, model, artifact). The message is one sentence: what is wrong, where, and what to do.

    The command line, the workflow and notebooks show this message and stop without a traceback. Any other exception is a bug in
    icl-lens and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Return the lines that Jupyter shows instead of a traceback."""
        return [f"InputError: {self}"]

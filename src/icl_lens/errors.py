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


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, or the first two if the first one only introduces the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]

"""The one exception a person meets when what they gave cannot be used."""

from __future__ import annotations


class InputError(Exception):
    """Bad input (config, data, model, artifact): one sentence that says what is wrong, where, and what to do.

    The command line, the workflow and a notebook show the sentence and stop without a traceback; anything else that is raised
    is a defect of icl-lens and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback."""
        return [f"InputError: {self}"]

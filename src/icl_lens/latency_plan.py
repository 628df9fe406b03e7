"""What is timed behind whole and behind compressed demonstrations, how often; the settings, free of torch.

*Label Words are Anchors*, section 3.2 and appendix I (Tables 3 and 6). :mod:`icl_lens.studies.latency` does it.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from icl_lens.section import Section

# The whole prompt is read (the paper's comparison); the query behind the kept positions; the query behind all of them.
Method = Literal["full", "hidden_anchor", "shared"]
METHODS: tuple[Method, ...] = get_args(Method)


class Settings(Section):
    """How much is timed."""

    prompts: int = Field(default=5, ge=1, description="Prompts of each seed that are timed, the first ones.")
    repeats: int = Field(default=5, ge=1, description="Times that each is timed, after one that does not count.")

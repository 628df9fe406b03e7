"""What every group of config keys shares; kept apart so that a study's own section needs nothing else of the config."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that every generator takes."""


class Section(BaseModel):
    """A group of keys: none but those declared, no value of another type, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

"""Base class of all groups of config keys, in its own module so that studies need not import the rest of the config."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed in the range that all random generators accept."""


class Section(BaseModel):
    """A group of config keys. Undeclared keys and values of another type are invalid, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

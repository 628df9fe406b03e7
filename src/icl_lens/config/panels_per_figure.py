"""The number of models that a figure can show, checked before any job runs."""

from __future__ import annotations

from icl_lens.config.keys import Config
from icl_lens.errors import InputError
from icl_lens.studies import registry

MOST_MODELS = 50
"""With more models, the panels of most figures are lower than a line of text, and their layout takes hours."""


def require(config: Config, item: str) -> None:
    """Require that a figure shows at most :data:`MOST_MODELS` models.

    Tables, and figures that draw all models into the same panels, show any number of models.

    Raises:
        InputError: The figure shows more models.
    """
    about = registry.items()[item]
    count = len(config.shown(item)[0])
    if about.kind == "table" or about.over_training or count <= MOST_MODELS:
        return
    key = "representation_models" if about.own_tasks else "models"
    raise InputError(
        f"{item} shows {count} models, but a figure shows at most {MOST_MODELS}; name fewer in items.{item}.models or "
        f"{key}, or run `snakemake studies` for the results of all models without figures"
    )

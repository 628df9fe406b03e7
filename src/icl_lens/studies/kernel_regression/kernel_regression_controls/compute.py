"""Controls of kernel regression that its reviewers requested: permuted inputs, flipped labels and reordered demonstrations.

*In-context learning as kernel regression* (Han et al., TMLR 2025). A sum over demonstrations (eq. 6) does not depend on their
order. Kernel regression therefore predicts that neither the prediction nor the reconstruction changes with the order of the
demonstrations. The prediction of a language model may change. All controls use the same held-out prompts
(:data:`icl_lens.studies.kernel_regression.settings.CONTROLS`):

- The texts of the demonstrations are permuted while the labels keep their positions, so that text and label no longer belong
  together. At least one text always gets a different label.
- The label word of each class is replaced with the label word of the next class, and that of the last class with that of the
  first.
- Whole demonstrations, text and label, are reordered.

The rows of each control are those of :mod:`icl_lens.studies.kernel_regression.demonstration_attention`.
:func:`icl_lens.prompts.demonstrations.replace_demonstrations` rewrites the prompts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.progress import Runs
from icl_lens.prompts.demonstrations import demonstration_texts, replace_demonstrations
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.statistics.halves import texts_of
from icl_lens.studies.inputs import Given, Inputs, of_tables
from icl_lens.studies.kernel_regression.demonstration_attention import attention_rows
from icl_lens.studies.kernel_regression.settings import INPUTS_PERMUTED, LABELS_FLIPPED, ORDER, PLAIN, Settings, first_held_out


def prepare(given: Given) -> Inputs:
    """Return the prompts of :func:`control_tables` that fit the model's context in every control.

    Raises:
        InputError: No prompt fits, or :func:`control_tables` raises it.
    """
    return of_tables(given, control_tables(given.table, given.settings))


def control_tables(table: pd.DataFrame, settings: Settings) -> dict[str, pd.DataFrame]:
    """Build the prompts tables of all controls from the first held-out prompts of each seed, unchanged and changed.

    Raises:
        InputError: A prompt's demonstrations cannot be permuted.
    """
    unchanged = table[first_held_out(table["seed"].to_numpy(), texts_of(table), settings)]
    changes = {
        INPUTS_PERMUTED: lambda row: _permute_inputs(row, settings),
        LABELS_FLIPPED: _flip_labels,
        **{f"{ORDER}_{draw}": lambda row, draw=draw: _reorder(row, settings, draw) for draw in range(settings.orders)},
    }
    rows = unchanged.to_dict("records")
    return {
        "prompts": unchanged,
        **{name: pd.DataFrame([{**row, **change(row)} for row in rows]) for name, change in changes.items()},
    }


def _permute_inputs(row: dict, settings: Settings) -> dict:
    labels = [int(label) for label in row["demo_labels"]]
    if len(set(labels)) < 2:
        raise InputError(
            f"prompt {row['prompt_id']}: its demonstrations have fewer than two different labels, so no text can get a "
            "different label; use demonstrations of at least two classes"
        )
    generator = _generator(row, settings, 0)
    order = list(range(len(labels)))
    while [labels[i] for i in order] == labels:
        order = generator.permutation(len(labels)).tolist()
    texts = demonstration_texts(row)
    return {
        **replace_demonstrations(row, [texts[i] for i in order], labels),
        "demo_indices": [int(row["demo_indices"][i]) for i in order],
    }


def _flip_labels(row: dict) -> dict:
    labels = [(int(label) + 1) % len(row["label_words"]) for label in row["demo_labels"]]
    return replace_demonstrations(row, demonstration_texts(row), labels)


def _reorder(row: dict, settings: Settings, draw: int) -> dict:
    labels, texts = [int(label) for label in row["demo_labels"]], demonstration_texts(row)
    if len(labels) < 2:
        raise InputError(
            f"prompt {row['prompt_id']} has only one demonstration, which cannot be reordered; use at least two demonstrations"
        )
    generator = _generator(row, settings, 1 + draw)
    order = list(range(len(labels)))
    while order == sorted(order):
        order = generator.permutation(len(labels)).tolist()
    return {
        **replace_demonstrations(row, [texts[i] for i in order], [labels[i] for i in order]),
        "demo_indices": [int(row["demo_indices"][i]) for i in order],
    }


def _generator(row: dict, settings: Settings, stream: int) -> np.random.Generator:
    # Without the task, prompts of two tasks with the same id and seed would have the same permutation.
    task = zlib.crc32(str(row["task"]).encode())
    return np.random.default_rng([settings.seed, task, int(row["seed"]), int(row["prompt_id"]), stream])


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    **controls: Sequence[TokenizedPrompt],
) -> pd.DataFrame:
    """Compute the attention to each demonstration and the predictions, for each control.

    Args:
        model, batch_tokens, progress, settings: Standard arguments of a study, see :mod:`icl_lens.studies.study`.
        prompts: The unchanged prompts; they fit the model's context.
        controls: The same prompts for each control, with the names from :func:`control_tables`.

    Raises:
        InputError: See :func:`~icl_lens.studies.kernel_regression.demonstration_attention.attention_rows`.

    Returns:
        The rows of :func:`~icl_lens.studies.kernel_regression.demonstration_attention.attention_rows` (without the shares of
        the row's parts) for each control in turn, with ``control`` and ``draw`` (the number of the order; 0 for the other
        controls).
    """
    settings = settings or Settings()
    report = Runs(progress, 1 + len(controls))
    tables = []
    for name, control_prompts in {PLAIN: prompts, **controls}.items():
        control, _, draw = name.rpartition("_") if name.startswith(f"{ORDER}_") else (name, "", 0)
        rows = attention_rows(model, control_prompts, batch_tokens, report, settings)
        tables.append(rows.drop(columns=[c for c in rows if c.startswith("on_")]).assign(control=control, draw=int(draw)))
    return pd.concat(tables, ignore_index=True)

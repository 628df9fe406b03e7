"""Implementation of ``icl-lens compress``: compress demonstrations and write them to a file.

The method is Hidden_anchor of *Label Words are Anchors*, section 3.2, with the user's own demonstrations
(:mod:`icl_lens.studies.anchors.compressed_demonstrations`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.models.observed import observe
from icl_lens.models.options import LoadOptions, RunOptions, merge
from icl_lens.network import precision
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.tasks.task import Task
from icl_lens.tools import demo_cache
from icl_lens.tools.demo_cache import Header
from icl_lens.tools.demonstrations import build_prompts
from icl_lens.tools.model_identity import identify

logger = logging.getLogger(__name__)

Keep = Literal["anchors", "all"]


@torch.inference_mode()
def compress(
    folder: Path | str,
    task: Task,
    texts: Sequence[str],
    labels: Sequence[int],
    out: Path | str,
    keep: Keep = "anchors",
    load: LoadOptions | None = None,
    options: RunOptions | None = None,
) -> Header:
    """Run the model once on the demonstrations, and write the keys and values of the kept positions.

    Args:
        folder: The folder of the model.
        task: The task, with template and label words.
        texts: The texts of the demonstrations, in prompt order.
        labels: The class indices of the demonstrations.
        out: The cache file to write.
        keep: ``anchors`` for the template and label words (Hidden_anchor), or ``all`` for all positions, which does not change
            any prediction.
        load: How to load the model; the defaults if None.
        options: How to run the model and to write its prompts; the defaults if None. The tool does not batch prompts.

    Raises:
        InputError: The model cannot be used, or the demonstrations leave no room for a query.
    """
    load, options = merge(load, options)
    model = loading.load(folder, load)
    compressed_demonstrations.require_compressible(model)
    for index in sorted(set(range(len(task.label_words))) - set(labels)):
        logger.warning("class %s has no demonstration", task.label_words[index].strip())
    # The query is not used. Any text can follow the demonstrations.
    (prompt,) = build_prompts(model, task, texts, labels, texts[:1], options)
    length = compressed_demonstrations.query_start(prompt)
    if model.context is not None and length >= model.context:
        raise InputError(
            f"the demonstrations have {length} tokens and fill the context of {model.name} ({model.context} tokens); use fewer "
            "or shorter demonstrations"
        )
    kept = compressed_demonstrations.kept_positions(prompt) if keep == "anchors" else np.arange(length)
    with precision.products(options.matmul, model.device) as products:
        if model.context is None or len(prompt.ids) <= model.context:
            observe(model, [prompt])  # warns if the model predicts such texts poorly or tokens are unknown
        compressed = compressed_demonstrations.compress(model, prompt, kept)
    header = demo_cache.save(
        out,
        compressed,
        made_by=identify(model, folder),
        dtype=load.dtype,
        matmul=options.matmul,
        products=products,
        task=task.name,
        template=task.template,
        label_words=list(task.label_words),
        texts=list(texts),
        labels=list(labels),
        bos=options.bos,
        chat=options.as_chat,
        label_score=options.label_score,
    )
    logger.info("wrote %s: kept %d of %d positions of %d demonstrations", out, len(kept), length, len(texts))
    return header

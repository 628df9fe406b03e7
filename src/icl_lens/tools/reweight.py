"""Implementation of ``icl-lens reweight-components``: train weights for the heads and MLPs of a model on labelled texts.

The method is that of section 5 of *When Parts Are Greater Than Sums* (Chang et al., EMNLP 2024) with the training rules of the
released code (:mod:`icl_lens.studies.component_reweighting.component_weights`), applied to the user's own labelled texts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.models.observed import observe
from icl_lens.models.options import LoadOptions, RunOptions, merge
from icl_lens.network import precision
from icl_lens.studies.component_reweighting import component_weights
from icl_lens.studies.component_reweighting.decomposition import Decomposer, decompose, heads_and_mlps
from icl_lens.studies.component_reweighting.settings import Settings
from icl_lens.tasks.task import Task
from icl_lens.tools import component_file
from icl_lens.tools.component_file import Header
from icl_lens.tools.demonstrations import build_prompts, require_fits_context, warn_of_repeated
from icl_lens.tools.model_identity import identify

logger = logging.getLogger(__name__)


def reweight(
    folder: Path | str,
    task: Task,
    texts: Sequence[str],
    labels: Sequence[int],
    demonstrations: int,
    out: Path | str,
    settings: Settings | None = None,
    load: LoadOptions | None = None,
    options: RunOptions | None = None,
) -> Header:
    """Train weights for the heads and MLPs of a model on labelled texts, and write them to a file.

    Args:
        folder: The folder of the model.
        task: The task, with template and label words.
        texts: The labelled texts. The first ones are the demonstrations; the weights are trained on the others.
        labels: The class indices of the texts.
        demonstrations: The number of demonstrations.
        out: The file to write.
        settings: The settings of the training.
        load: How to load the model; the defaults if None.
        options: How to run the model and to write its prompts; the defaults if None.

    Raises:
        InputError: There are too few texts, a class has no training text, a text is too long, or the model cannot be used.
    """
    settings = settings or Settings()
    if len(texts) <= demonstrations:
        raise InputError(
            f"no labelled text is left for training: there are {len(texts)} and the first {demonstrations} are demonstrations; "
            "add texts or reduce --demonstrations"
        )
    gold = list(labels[demonstrations:])
    missing = [word.strip() for c, word in enumerate(task.label_words) if c not in gold]
    if missing:
        raise InputError(
            f"class {missing[0]} has no training text: none of the texts after the first {demonstrations}, which are "
            "demonstrations, has this label; add such texts"
        )
    load, options = merge(load, options)
    model = loading.load(folder, load)
    decomposer = Decomposer(model.network)
    demonstration_texts, demonstration_labels = list(texts[:demonstrations]), list(labels[:demonstrations])
    training_texts = list(texts[demonstrations:])
    locations = [f"labelled text {number}" for number in range(demonstrations + 1, len(texts) + 1)]
    warn_of_repeated(demonstration_texts, training_texts, locations)
    prompts = build_prompts(model, task, demonstration_texts, demonstration_labels, training_texts, options)
    for location, prompt in zip(locations, prompts, strict=True):
        require_fits_context(model, location, prompt)
    trainable = heads_and_mlps(decomposer.parts())
    with precision.products(options.matmul, model.device) as products:
        observe(model, prompts)  # warns if the model predicts such texts poorly or tokens are unknown
        decomposed = decompose(model, decomposer, prompts, options.batch_tokens, with_attention=False)
    parts = decomposed.parts[:, trainable]  # (n, M, C)
    classes = torch.tensor(gold)
    trained = component_weights.reweight(parts[None], classes[None], torch.ones(1, len(gold), dtype=torch.bool), settings)
    after = torch.einsum("nmc,m->nc", parts, trained.weights[0]).argmax(-1)
    components = decomposer.parts().iloc[trainable]
    header = component_file.save(
        out,
        trained.weights[0].numpy(),
        components["layer"].to_numpy(),
        components["head"].to_numpy(),
        made_by=identify(model, folder),
        dtype=load.dtype,
        matmul=options.matmul,
        products=products,
        task=task.name,
        template=task.template,
        label_words=list(task.label_words),
        texts=demonstration_texts,
        labels=demonstration_labels,
        bos=options.bos,
        chat=options.as_chat,
        trained_on=len(gold),
        epochs=int(trained.epochs[0]),
        right_before=int((decomposed.logits.argmax(-1) == classes).sum()),
        right_after=int((after == classes).sum()),
    )
    message = (
        "wrote %s: weights of %d heads and MLPs, %d training texts, %d demonstrations, %d epochs; correct before %d, after %d"
    )
    logger.info(
        message,
        out,
        len(components),
        len(gold),
        len(demonstration_texts),
        header.epochs,
        header.right_before,
        header.right_after,
    )
    return header

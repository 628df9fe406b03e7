"""Compressed demonstrations in use: make them once from a file, then classify any number of texts behind them.

What ``icl-lens compress`` and ``icl-lens classify`` do. It is Hidden_anchor of *Label Words are Anchors*, section 3.2, as
:mod:`icl_lens.compression` has it, the demonstrations being the user's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from icl_lens import chat, compression, demo_cache, models, precision
from icl_lens.demo_cache import Header
from icl_lens.errors import InputError
from icl_lens.models import LanguageModel
from icl_lens.positions import Bos, TokenizedPrompt, tokenize
from icl_lens.prompts import write_prompt
from icl_lens.tasks import Task
from icl_lens.text_files import Text

logger = logging.getLogger(__name__)

Keep = Literal["anchors", "all"]


class Answer(NamedTuple):
    """What a text is classified as.

    Attributes:
        text: The text.
        label: The label word of the likeliest class, without its leading blank.
        probabilities: Of every class, by its label word; they sum to 1.
    """

    text: str
    label: str
    probabilities: dict[str, float]


@torch.inference_mode()
def compress(
    folder: Path | str,
    task: Task,
    texts: Sequence[str],
    labels: Sequence[int],
    out: Path | str,
    keep: Keep = "anchors",
    name: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    matmul: str = "exact",
    bos: Bos = "auto",
    as_chat: bool = False,
) -> Header:
    """Read demonstrations once and write what is kept of them.

    Args:
        folder: The model's.
        task: Template and label words.
        texts: The demonstrations' texts, in prompt order.
        labels: Their class indices.
        out: The cache to write.
        keep: ``anchors``, template and label words (Hidden_anchor); ``all``, every position, which changes no answer.
        name: The model's name in the cache.
        device: auto, cpu, cuda or mps.
        dtype: float32, float16 or bfloat16.
        matmul: How products of float32 matrices are computed, exact or fast, see :func:`icl_lens.precision.products`.
        bos: See :func:`icl_lens.positions.tokenize`.
        as_chat: Whether prompts are written as a chat, see :func:`icl_lens.chat.wrap`.

    Raises:
        InputError: The model cannot be used, or the demonstrations leave no room for a query.
    """
    model = models.load(folder, name=name, device=device, dtype=dtype)
    compression.require_compressible(model)
    for index in sorted(set(range(len(task.label_words))) - set(labels)):
        logger.warning("no demonstration of class %s: it is known by its name alone", task.label_words[index].strip())
    # Its query is not read: any text ends the demonstrations.
    (prompt,) = prompts_of(model, task, texts, labels, texts[:1], bos, as_chat)
    length = compression.query_start(prompt)
    if model.context is not None and length >= model.context:
        raise InputError(
            f"the demonstrations are {length} tokens, and the context of {model.name} is {model.context}: none is left for a "
            "text; use fewer or shorter ones"
        )
    kept = compression.kept_positions(prompt) if keep == "anchors" else np.arange(length)
    with precision.products(matmul, model.device) as products:
        if model.context is None or len(prompt.ids) <= model.context:
            models.observe(model, [prompt])  # it warns where the model or its tokenizer does not know such text
        compressed = compression.compress(model, prompt, kept)
    header = demo_cache.save(
        out,
        compressed,
        made_by=demo_cache.whose(model, folder),
        dtype=dtype,
        matmul=matmul,
        products=products,
        task=task.name,
        template=task.template,
        label_words=list(task.label_words),
        texts=list(texts),
        labels=list(labels),
        bos=bos,
        chat=as_chat,
    )
    logger.info("wrote %s: %d of %d positions kept, of %d demonstrations", out, len(kept), length, len(texts))
    return header


@torch.inference_mode()
def classify(
    folder: Path | str,
    cache: Path | str,
    texts: Sequence[Text],
    device: str = "auto",
    batch_tokens: int = 4096,
    matmul: str = "exact",
) -> Iterator[Answer]:
    """Classify texts behind compressed demonstrations.

    Args:
        folder: The model's that made the cache; it is loaded in the cache's number format.
        cache: What :func:`compress` wrote.
        texts: Each with its line.
        device: auto, cpu, cuda or mps.
        batch_tokens: See :func:`icl_lens.models.batches`.
        matmul: How products of float32 matrices are computed, exact or fast, see :func:`icl_lens.precision.products`.

    Raises:
        InputError: The cache cannot be read or is another model's or tokenizer's; a text is too long for the context left over,
            or is read differently behind the demonstrations.

    Returns:
        An answer a text, in their order. All texts are looked at before the first is answered.
    """
    header = demo_cache.read_header(cache)
    model = models.load(folder, device=device, dtype=header.dtype)
    read = demo_cache.load(cache, model, folder)
    compression.require_compressible(model)
    words = tuple(header.label_words)
    task = Task(header.task, header.task, header.template, words, tuple(word.strip() for word in words))
    queries = [one.text for one in texts]
    prompts = prompts_of(model, task, header.texts, header.labels, queries, header.bos, header.chat)
    for one, prompt in zip(texts, prompts, strict=True):
        _require_room(model, header, one, prompt)
    probabilities = np.empty((len(prompts), len(words)))  # (N, C)
    with precision.products(matmul, model.device):
        for batch in compression.batches(model, prompts, batch_tokens, read.compressed):
            logits = compression.query_logits(model, batch, read.compressed)  # (B, V)
            of_labels = logits.gather(1, batch.label_ids).cpu().double().softmax(-1)  # (B, C)
            probabilities[batch.index] = of_labels.numpy()
    names = [word.strip() for word in words]
    for text, row in zip(queries, probabilities, strict=True):
        yield Answer(text, names[int(row.argmax())], dict(zip(names, row.tolist(), strict=True)))


def _require_room(model: LanguageModel, header: Header, one: Text, prompt: TokenizedPrompt) -> None:
    if len(prompt.ids) <= header.start or prompt.ids[: header.start].tolist() != header.ids:
        raise InputError(
            f"line {one.line}: the tokenizer reads the demonstrations differently before this text, so the cache does not hold "
            "them as they are read there; does the text begin with a line break, or the template with the text?"
        )
    if model.context is not None and len(prompt.ids) > model.context:
        raise InputError(
            f"line {one.line}: its text is {len(prompt.ids) - header.start} tokens with the template, and the demonstrations "
            f"leave {model.context - header.start} of the context of {model.name} ({model.context}); shorten it, or compress "
            "fewer demonstrations"
        )


def prompts_of(
    model: LanguageModel,
    task: Task,
    texts: Sequence[str],
    labels: Sequence[int],
    queries: Sequence[str],
    bos: Bos,
    as_chat: bool,
) -> list[TokenizedPrompt]:
    """Each query behind all demonstrations, tokenised whole; nothing of it is run."""
    shared = {"gold": 0, "seed": 0, "label_words": list(task.label_words), "demo_labels": list(labels)}
    rows = [{"prompt_id": n, **shared, **write_prompt(task, list(texts), list(labels), q)} for n, q in enumerate(queries)]
    table = pd.DataFrame(rows)
    return tokenize(chat.wrap(table, model.tokenizer) if as_chat else table, model.tokenizer, bos)

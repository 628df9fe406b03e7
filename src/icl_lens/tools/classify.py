"""Implementation of ``icl-lens classify``: classify texts with compressed demonstrations or re-weighted components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from icl_lens.errors import InputError
from icl_lens.models import loading
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_scores
from icl_lens.models.options import LoadOptions, RunOptions, merge
from icl_lens.network import precision
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.studies.component_reweighting.decomposition import Decomposer, decompose, heads_and_mlps
from icl_lens.tasks.task import Task
from icl_lens.tools import component_file, demo_cache
from icl_lens.tools.demonstrations import build_prompts, require_fits_context, warn_of_repeated
from icl_lens.tools.text_files import Text

Header = demo_cache.Header | component_file.Header


class Answer(NamedTuple):
    """Prediction for one text.

    Attributes:
        text: The text.
        label: The label word of the most likely class, without its leading space.
        probabilities: The probability of each class, keyed by its label word; they sum to 1.
    """

    text: str
    label: str
    probabilities: dict[str, float]


@torch.inference_mode()
def with_cache(
    folder: Path | str,
    cache: Path | str,
    texts: Sequence[Text],
    load: LoadOptions | None = None,
    options: RunOptions | None = None,
) -> Iterator[Answer]:
    """Classify texts with compressed demonstrations.

    Args:
        folder: The folder of the model that created the cache. The model is loaded in the number format of the cache.
        cache: The file written by :func:`icl_lens.tools.compress.compress`.
        texts: The texts with their line numbers.
        load: How to load the model; the defaults if None. The file determines the number format.
        options: How to run the model; the defaults if None. The file determines how prompts are written.

    Raises:
        InputError: The cache cannot be read or was made with another model or tokenizer; a text is too long for the remaining
            context length; or the tokens of the demonstrations change when the text follows them.

    Returns:
        One answer per text, in the same order. All texts are checked before the first answer.
    """
    header = demo_cache.read_header(cache)
    written = {"bos": header.bos, "as_chat": header.chat, "label_score": header.label_score}
    load, options = merge(load, options, dtype=header.dtype, **written)
    model = loading.load(folder, load)
    loaded = demo_cache.load(cache, model, folder)
    compressed_demonstrations.require_compressible(model)
    prompts = _prompts(model, header, texts, options)
    for one, prompt in zip(texts, prompts, strict=True):
        _require_fits_cache(model, header, one, prompt)
    probabilities = np.empty((len(prompts), len(header.label_words)))  # (N, C)
    with precision.products(options.matmul, model.device):
        for batch in compressed_demonstrations.batches(model, prompts, options.batch_tokens, loaded.compressed):
            logits = compressed_demonstrations.query_logits(model, batch, loaded.compressed)  # (E, V)
            label_probabilities = class_scores(batch, logits).cpu().double().softmax(-1)  # (B, C)
            probabilities[batch.index] = label_probabilities.numpy()
    yield from _answers(header, texts, probabilities)


def with_components(
    folder: Path | str,
    components: Path | str,
    texts: Sequence[Text],
    load: LoadOptions | None = None,
    options: RunOptions | None = None,
) -> Iterator[Answer]:
    """Classify texts with re-weighted components.

    Args:
        folder: The folder of the model to which the components belong. The model is loaded in the number format in which the
            components were re-weighted.
        components: The file written by :func:`icl_lens.tools.reweight.reweight`.
        texts: The texts with their line numbers.
        load: How to load the model; the defaults if None. The file determines the number format.
        options: How to run the model; the defaults if None. The file determines how prompts are written.

    Raises:
        InputError: The file cannot be read or was made with another model or tokenizer, or a text is too long.

    Returns:
        One answer per text, in the same order. The probabilities are the softmax of the weighted sum. All texts are checked
        before the first answer.
    """
    header = component_file.read_header(components)
    load, options = merge(load, options, dtype=header.dtype, bos=header.bos, as_chat=header.chat)
    model = loading.load(folder, load)
    weights = torch.from_numpy(component_file.load(components, model, folder))
    decomposer = Decomposer(model.network)
    prompts = _prompts(model, header, texts, options)
    for one, prompt in zip(texts, prompts, strict=True):
        require_fits_context(model, f"line {one.line}", prompt)
    with precision.products(options.matmul, model.device):
        decomposed = decompose(model, decomposer, prompts, options.batch_tokens, with_attention=False)
    parts = decomposed.parts[:, heads_and_mlps(decomposer.parts())]  # (N, M, C)
    probabilities = torch.einsum("nmc,m->nc", parts, weights).double().softmax(-1).numpy()  # (N, C)
    yield from _answers(header, texts, probabilities)


def _prompts(model: LanguageModel, header: Header, texts: Sequence[Text], options: RunOptions) -> list[TokenizedPrompt]:
    """Build prompts from the demonstrations in a header, with each text as a query."""
    words = tuple(header.label_words)
    task = Task(header.task, header.task, header.template, words, tuple(word.strip() for word in words))
    queries = [one.text for one in texts]
    warn_of_repeated(header.texts, queries, [f"line {one.line}" for one in texts])
    return build_prompts(model, task, header.texts, header.labels, queries, options)


def _answers(header: Header, texts: Sequence[Text], probabilities: np.ndarray) -> Iterator[Answer]:
    """Yield one answer per text from the class probabilities, shape (N, C)."""
    names = [word.strip() for word in header.label_words]
    for one, row in zip(texts, probabilities, strict=True):
        yield Answer(one.text, names[int(row.argmax())], dict(zip(names, row.tolist(), strict=True)))


def _require_fits_cache(model: LanguageModel, header: demo_cache.Header, one: Text, prompt: TokenizedPrompt) -> None:
    if len(prompt.ids) <= header.start or prompt.ids[: header.start].tolist() != header.ids:
        raise InputError(
            f"line {one.line}: the tokens of the demonstrations change when this text follows them, so the cache does not "
            "match; remove a line break at the beginning of the text, or put a word before {text} in the template"
        )
    tokens = len(prompt.ids) + prompt.appended
    if model.context is not None and tokens > model.context:
        raise InputError(
            f"line {one.line}: the text has {tokens - header.start} tokens with the template, but the demonstrations "
            f"leave only {model.context - header.start} of the {model.context} tokens of the context of {model.name}; shorten "
            "the text or compress fewer demonstrations"
        )

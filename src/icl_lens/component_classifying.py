"""Re-weighted components in use: train weights on a person's labelled texts, then classify any number of texts with them.

What ``icl-lens reweight-components`` and ``icl-lens classify --components`` do: section 5 of *When Parts Are Greater Than Sums*
(Chang et al., EMNLP 2024), by the released rules (:mod:`icl_lens.component_weights`), the labelled texts being the user's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from icl_lens import component_file, component_weights, models, precision
from icl_lens.classifying import Answer, prompts_of
from icl_lens.component_file import Header
from icl_lens.components_plan import Settings
from icl_lens.decomposition import HEAD, MLP, Decomposer, decompose
from icl_lens.demo_cache import whose
from icl_lens.errors import InputError
from icl_lens.models import LanguageModel
from icl_lens.positions import Bos, TokenizedPrompt
from icl_lens.tasks import Task
from icl_lens.text_files import Text

logger = logging.getLogger(__name__)


def reweight(
    folder: Path | str,
    task: Task,
    texts: Sequence[str],
    labels: Sequence[int],
    demonstrations: int,
    out: Path | str,
    settings: Settings | None = None,
    name: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    matmul: str = "exact",
    bos: Bos = "auto",
    as_chat: bool = False,
    batch_tokens: int = 4096,
) -> Header:
    """Train the weights of a model's heads and MLPs on labelled texts, and write them.

    Args:
        folder: The model's.
        task: Template and label words.
        texts: The first are the demonstrations, the weights are trained on the others.
        labels: Their class indices.
        demonstrations: How many are demonstrations.
        out: The file to write.
        settings: How the weights are trained.
        name: The model's name in the file.
        device: auto, cpu, cuda or mps.
        dtype: float32, float16 or bfloat16.
        matmul: How products of float32 matrices are computed, exact or fast, see :func:`icl_lens.precision.products`.
        bos: See :func:`icl_lens.positions.tokenize`.
        as_chat: Whether prompts are written as a chat, see :func:`icl_lens.chat.wrap`.
        batch_tokens: See :func:`icl_lens.models.batches`.

    Raises:
        InputError: There are too few texts or none of a class, one is too long, or the model cannot be used.
    """
    settings = settings or Settings()
    if len(texts) <= demonstrations:
        raise InputError(
            f"there are {len(texts)} labelled texts and the first {demonstrations} are demonstrations, so none is left to "
            "train on; give more, or fewer --demonstrations"
        )
    gold = list(labels[demonstrations:])
    absent = [word.strip() for c, word in enumerate(task.label_words) if c not in gold]
    if absent:
        raise InputError(
            f"no text behind the {demonstrations} demonstrations is labelled {absent[0]}, so weights would be trained without "
            "that class; put some there"
        )
    model = models.load(folder, name=name, device=device, dtype=dtype)
    decomposer = Decomposer(model.network)
    shown, known = list(texts[:demonstrations]), list(labels[:demonstrations])
    prompts = prompts_of(model, task, shown, known, list(texts[demonstrations:]), bos, as_chat)
    for number, prompt in enumerate(prompts, demonstrations + 1):
        _require_room(model, f"labelled text {number}", prompt)
    movable = _movable(decomposer)
    with precision.products(matmul, model.device) as products:
        models.observe(model, prompts)  # it warns where the model or its tokenizer does not know such text
        read = decompose(model, decomposer, prompts, batch_tokens, with_attention=False)
    parts = read.parts[:, movable]  # (n, M, C)
    right = torch.tensor(gold)
    learnt = component_weights.reweight(parts[None], right[None], torch.ones(1, len(gold), dtype=torch.bool), settings)
    after = torch.einsum("nmc,m->nc", parts, learnt.weights[0]).argmax(-1)
    kinds = decomposer.parts().iloc[movable]
    header = component_file.save(
        out,
        learnt.weights[0].numpy(),
        kinds["layer"].to_numpy(),
        kinds["head"].to_numpy(),
        made_by=whose(model, folder),
        dtype=dtype,
        matmul=matmul,
        products=products,
        task=task.name,
        template=task.template,
        label_words=list(task.label_words),
        texts=shown,
        labels=known,
        bos=bos,
        chat=as_chat,
        trained_on=len(gold),
        epochs=int(learnt.epochs[0]),
        right_before=int((read.logits.argmax(-1) == right).sum()),
        right_after=int((after == right).sum()),
    )
    what = "wrote %s: %d heads and MLPs, weighted on %d texts behind %d demonstrations in %d epochs; right before %d, after %d"
    logger.info(what, out, len(kinds), len(gold), len(shown), header.epochs, header.right_before, header.right_after)
    return header


def classify(
    folder: Path | str,
    components: Path | str,
    texts: Sequence[Text],
    device: str = "auto",
    batch_tokens: int = 4096,
    matmul: str = "exact",
) -> Iterator[Answer]:
    """Classify texts by re-weighted components.

    Args:
        folder: The model's whose components they are; it is loaded in the number format of then.
        components: What :func:`reweight` wrote.
        texts: Each with its line.
        device: auto, cpu, cuda or mps.
        batch_tokens: See :func:`icl_lens.models.batches`.
        matmul: How products of float32 matrices are computed, exact or fast, see :func:`icl_lens.precision.products`.

    Raises:
        InputError: The file cannot be read or is another model's or tokenizer's, or a text is too long.

    Returns:
        An answer a text, in their order; probabilities are the softmax of the weighted sum. All texts are looked at before the
        first is answered.
    """
    header = component_file.read_header(components)
    model = models.load(folder, device=device, dtype=header.dtype)
    weights = torch.from_numpy(component_file.load(components, model, folder))
    decomposer = Decomposer(model.network)
    words = tuple(header.label_words)
    names = [word.strip() for word in words]
    task = Task(header.task, header.task, header.template, words, tuple(names))
    queries = [one.text for one in texts]
    prompts = prompts_of(model, task, header.texts, header.labels, queries, header.bos, header.chat)
    for one, prompt in zip(texts, prompts, strict=True):
        _require_room(model, f"line {one.line}", prompt)
    with precision.products(matmul, model.device):
        parts = decompose(model, decomposer, prompts, batch_tokens, with_attention=False).parts[:, _movable(decomposer)]
    probabilities = torch.einsum("nmc,m->nc", parts, weights).double().softmax(-1).numpy()  # (N, C)
    for text, row in zip(queries, probabilities, strict=True):
        yield Answer(text, names[int(np.argmax(row))], dict(zip(names, row.tolist(), strict=True)))


def _movable(decomposer: Decomposer) -> np.ndarray:
    """Places of heads and MLPs among the parts, shape (M,)."""
    return np.flatnonzero(decomposer.parts()["kind"].isin([HEAD, MLP]))


def _require_room(model: LanguageModel, where: str, prompt: TokenizedPrompt) -> None:
    if model.context is not None and len(prompt.ids) > model.context:
        raise InputError(
            f"{where}: with the demonstrations before it, it is {len(prompt.ids)} tokens, and the context of {model.name} is "
            f"{model.context}; shorten it, or use fewer demonstrations"
        )

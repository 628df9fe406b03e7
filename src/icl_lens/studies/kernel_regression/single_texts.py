"""Next-token predictions of a model for single texts without a prompt.

*In-context learning as kernel regression* (Han et al., TMLR 2025), eq. 9, compares texts by the distribution of the next token,
P(o | x). A text has the same tokens as in its prompt, namely the prompt's tokens that end inside the text. These include the
whitespace before its first word. The BOS token comes first if the prompt has one. (The paper does not say how it formats a
single text.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from icl_lens.errors import InputError
from icl_lens.models.batching import batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_logits
from icl_lens.prompts.positions import TokenizedPrompt

# Maximum size, in bytes, of the distributions over the vocabulary that are in memory at the same time.
_MAX_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class DistinctTexts:
    """Texts of a sequence of prompts.

    Attributes:
        texts: The distinct texts, as prompts without demonstrations.
        query: Index in ``texts`` of the query's text for each prompt, shape (N,).
        demos: Indices in ``texts`` of the demonstrations' texts for each prompt, in their order, shape (D,) each.
    """

    texts: list[TokenizedPrompt]
    query: np.ndarray
    demos: list[np.ndarray]


def distinct_texts(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> DistinctTexts:
    """Return the distinct texts of prompts.

    Raises:
        InputError: No token ends inside a text.
    """
    indices: dict[bytes, int] = {}
    texts: list[TokenizedPrompt] = []

    def index_of(prompt: TokenizedPrompt, span: np.ndarray) -> int:
        start, end = span
        mask = (prompt.spans[:, 1] > start) & (prompt.spans[:, 1] <= end)  # (T,)
        if not mask.any():
            raise InputError(
                f"prompt {prompt.prompt_id}: no token ends inside the text at character {start}; remove this text from the data"
            )
        mask[0] |= prompt.ids[0] == model.tokenizer.bos_token_id
        ids = prompt.ids[mask]
        key = ids.tobytes()
        if key not in indices:
            indices[key] = len(texts)
            empty = np.empty(0, dtype=np.int64)
            texts.append(
                dataclasses.replace(
                    prompt,
                    ids=ids,
                    anchors=empty,
                    demo_labels=empty,
                    text=prompt.text[start:end],
                    spans=prompt.spans[mask],
                    text_spans=np.empty((0, 2), dtype=np.int64),
                    label_spans=np.empty((0, 2), dtype=np.int64),
                    label_tokens=np.empty((0, 2), dtype=np.int64),
                    query_span=np.array([0, end - start]),
                )
            )
        return indices[key]

    query = np.array([index_of(p, p.query_span) for p in prompts], dtype=np.int64)
    demos = [np.array([index_of(p, span) for span in p.text_spans], dtype=np.int64) for p in prompts]
    return DistinctTexts(texts, query, demos)


@torch.inference_mode()
def distributions(
    model: LanguageModel, texts: Sequence[TokenizedPrompt], batch_tokens: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Compute P(o | x) for each text, batch by batch.

    Args:
        model: Any supported model.
        texts: Texts from :func:`distinct_texts`.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.

    Returns:
        Iterator over batches. Each item has the indices of the batch's texts and their probabilities, shape (B, V), in at least
        float32, on the model's device.
    """
    for batch in batches(model, texts, batch_tokens):
        yield batch.index, last_logits(model, batch).softmax(-1)  # (B, V)


def most_probable_tokens(model: LanguageModel, texts: Sequence[TokenizedPrompt], batch_tokens: int) -> np.ndarray:
    """Return argmax_o P(o | x) for each text: token ids, shape (n,)."""
    tokens = np.zeros(len(texts), dtype=np.int64)
    for index, probabilities in distributions(model, texts, batch_tokens):
        tokens[index] = probabilities.argmax(-1).cpu().numpy()
    return tokens


def split_by_memory(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> Iterator[range]:
    """Split the prompts into ranges of indices that fit in memory.

    The distributions of all distinct texts in a range fit in memory together. Usually one range contains all prompts.
    """
    max_texts = max(1, _MAX_BYTES // (4 * model.network.get_input_embeddings().num_embeddings))
    start, seen = 0, set()
    for index, prompt in enumerate(prompts):
        texts = {prompt.text[a:b] for a, b in [prompt.query_span, *prompt.text_spans]}
        if index > start and len(seen | texts) > max_texts:
            yield range(start, index)
            start, seen = index, set()
        seen |= texts
    yield range(start, len(prompts))

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
_HELD = 2**29


@dataclasses.dataclass(frozen=True)
class Alone:
    """Texts of a sequence of prompts.

    Attributes:
        texts: The distinct texts, as prompts without demonstrations.
        query: Index in ``texts`` of the query's text for each prompt, shape (N,).
        demos: Indices in ``texts`` of the demonstrations' texts for each prompt, in their order, shape (D,) each.
    """

    texts: list[TokenizedPrompt]
    query: np.ndarray
    demos: list[np.ndarray]


def texts_of(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> Alone:
    """Return the distinct texts of prompts.

    Raises:
        InputError: A text has no token of its own.
    """
    place: dict[bytes, int] = {}
    texts: list[TokenizedPrompt] = []

    def find(prompt: TokenizedPrompt, span: np.ndarray) -> int:
        start, end = span
        inside = (prompt.spans[:, 1] > start) & (prompt.spans[:, 1] <= end)  # (T,)
        if not inside.any():
            raise InputError(f"prompt {prompt.prompt_id}: the text at character {start} has no token of its own")
        inside[0] |= prompt.ids[0] == model.tokenizer.bos_token_id
        ids = prompt.ids[inside]
        key = ids.tobytes()
        if key not in place:
            place[key] = len(texts)
            nothing = np.empty(0, dtype=np.int64)
            texts.append(
                dataclasses.replace(
                    prompt,
                    ids=ids,
                    anchors=nothing,
                    demo_labels=nothing,
                    text=prompt.text[start:end],
                    spans=prompt.spans[inside],
                    text_spans=np.empty((0, 2), dtype=np.int64),
                    label_spans=np.empty((0, 2), dtype=np.int64),
                    query_span=np.array([0, end - start]),
                )
            )
        return place[key]

    query = np.array([find(p, p.query_span) for p in prompts], dtype=np.int64)
    demos = [np.array([find(p, span) for span in p.text_spans], dtype=np.int64) for p in prompts]
    return Alone(texts, query, demos)


@torch.inference_mode()
def distributions(
    model: LanguageModel, texts: Sequence[TokenizedPrompt], batch_tokens: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Compute P(o | x) for each text, batch by batch.

    Args:
        model: Any supported model.
        texts: Texts from :func:`texts_of`.
        batch_tokens: See :func:`icl_lens.models.batching.batches`.

    Returns:
        Iterator over batches. Each item has the indices of the batch's texts and their probabilities, shape (B, V), in at least
        float32, on the model's device.
    """
    for batch in batches(model, texts, batch_tokens):
        yield batch.index, last_logits(model, batch).softmax(-1)  # (B, V)


def likeliest(model: LanguageModel, texts: Sequence[TokenizedPrompt], batch_tokens: int) -> np.ndarray:
    """Return argmax_o P(o | x) for each text: token ids, shape (n,)."""
    found = np.zeros(len(texts), dtype=np.int64)
    for index, chances in distributions(model, texts, batch_tokens):
        found[index] = chances.argmax(-1).cpu().numpy()
    return found


def portions(model: LanguageModel, prompts: Sequence[TokenizedPrompt]) -> Iterator[range]:
    """Split the prompts into ranges of indices that fit in memory.

    The distributions of all distinct texts in a range fit in memory together. Usually one range contains all prompts.
    """
    most = max(1, _HELD // (4 * model.network.get_input_embeddings().num_embeddings))
    start, seen = 0, set()
    for place, prompt in enumerate(prompts):
        own = {prompt.text[a:b] for a, b in [prompt.query_span, *prompt.text_spans]}
        if place > start and len(seen | own) > most:
            yield range(start, place)
            start, seen = place, set()
        seen |= own
    yield range(start, len(prompts))

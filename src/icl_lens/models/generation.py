"""Greedy continuations of prompts, and the log-likelihood of candidate answers.

The model reads a prompt once and keeps its keys and values in a KV cache. Greedy decoding adds one token per step to the cache.
Candidates are read one after another, and the cache is cropped after each candidate. Prompts are read with padding on the
right. The padding is then moved to the left, so that the tokens of an answer follow the last token of the prompt without a
gap: a layer with a sliding window counts the keys before a query, including padding. The mask hides the padding, and positions
do not count it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from icl_lens.errors import InputError
from icl_lens.models.batching import Batch, batches
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import last_output
from icl_lens.models.prefixes import align_right
from icl_lens.network.forward_inputs import forward_inputs
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts import plain_text
from icl_lens.prompts.positions import TokenizedPrompt


def candidate_ids(
    prompts: Sequence[TokenizedPrompt], candidates: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase
) -> list[list[np.ndarray]]:
    """Return the token ids of the candidates of each prompt, as the model reads them after the prompt.

    Control tokens in a candidate are plain text, as in the texts of the prompt.

    Raises:
        InputError: A candidate changes the tokens of the prompt, adds no token, or contains a control token that
            cannot be tokenized as plain text.
    """
    pairs = [(p, candidate) for p, of_prompt in zip(prompts, candidates, strict=True) for candidate in of_prompt]
    texts = [p.text + candidate for p, candidate in pairs]
    data_spans = [[*p.data_spans.tolist(), [len(p.text), len(p.text + candidate)]] for p, candidate in pairs]
    tokenized = iter(plain_text.encode_batch([f"prompt {p.prompt_id}" for p, _ in pairs], texts, data_spans, tokenizer))
    found = []
    for prompt, prompt_candidates in zip(prompts, candidates, strict=True):
        # A prepended BOS token is not part of the text.
        has_bos = prompt.ids[0] == tokenizer.bos_token_id and prompt.spans[0, 1] == 0
        prompt_ids = prompt.ids[int(has_bos) :]
        answer_ids = []
        for candidate in prompt_candidates:
            ids = np.array(next(tokenized).ids, dtype=np.int64)
            if len(ids) <= len(prompt_ids) or (ids[: len(prompt_ids)] != prompt_ids).any():
                raise InputError(
                    f"prompt {prompt.prompt_id}: appending the answer {candidate!r} changes the tokens of the prompt; start "
                    "the answer with a space or change its first characters"
                )
            answer_ids.append(ids[len(prompt_ids) :])
        found.append(answer_ids)
    return found


class Continuations:
    """Continuations of a batch of prompts that was read with a KV cache.

    Args:
        model: The model.
        batch: The prompts, read without a shared prefix.
        cache: The keys and values of the prompts. Their padding is moved to the left. Each method restores the length.
        logits: Logits at the last token of each prompt, shape (B, V).
    """

    def __init__(self, model: LanguageModel, batch: Batch, cache: DynamicCache, logits: Tensor) -> None:
        self.model, self.cache, self.first = model, cache, logits
        self.next = batch.last + 1  # (B,)
        self.mask = align_right(cache, self.next)  # (B, K)

    def log_likelihood(self, candidates: Sequence[np.ndarray]) -> Tensor:
        """Return the log-probability of one candidate per prompt, summed over its tokens, shape (B,).

        Args:
            candidates: Token ids of the candidate of each prompt, at least one token each.
        """
        longest = max(map(len, candidates))
        ids = torch.zeros(len(candidates), longest, dtype=torch.int64)  # (B, N)
        valid = torch.zeros(len(candidates), longest, dtype=torch.int64)  # (B, N)
        for row, tokens in enumerate(candidates):
            ids[row, : len(tokens)] = torch.from_numpy(tokens)
            valid[row, : len(tokens)] = 1
        ids, valid = ids.to(self.next.device), valid.to(self.next.device)
        logits = self.first[:, None]  # (B, 1, V)
        if longest > 1:
            mask = torch.cat([self.mask, valid[:, :-1]], 1)  # (B, K + N - 1)
            later_logits = self._read(ids[:, :-1], mask, self.next)  # (B, N - 1, V)
            logits = torch.cat([logits, later_logits], 1)  # (B, N, V)
            self._crop(longest - 1)
        token_log_probs = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]  # (B, N)
        return (token_log_probs * valid).sum(1)

    def greedy(self, tokens: int) -> Tensor:
        """Return the token ids of a greedy continuation, the most likely token at each step, shape (B, tokens)."""
        chosen = [self.first.argmax(-1)]  # (B,) each
        mask = self.mask
        for step in range(tokens - 1):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)  # (B, K + step + 1)
            chosen.append(self._read(chosen[-1][:, None], mask, self.next + step)[:, -1].argmax(-1))
        self._crop(tokens - 1)
        return torch.stack(chosen, 1)

    def _read(self, ids: Tensor, mask: Tensor, start: Tensor) -> Tensor:
        """Read further tokens, add their keys and values to the cache, and return their logits, shape (B, N, V)."""
        positions = start[:, None] + torch.arange(ids.shape[1], device=ids.device)  # (B, N)
        return at_least_float32(self.model.network(**forward_inputs(ids, positions, self.cache, mask)).logits)

    def _crop(self, tokens: int) -> None:
        if tokens:
            self.cache.crop(-tokens)


def decode_answer(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of an answer up to the first EOS token."""
    ends = np.flatnonzero(ids == tokenizer.eos_token_id) if tokenizer.eos_token_id is not None else []
    return tokenizer.decode(ids[: ends[0]] if len(ends) else ids, skip_special_tokens=True)


@torch.inference_mode()
def greedy_answers(model: LanguageModel, prompts: Sequence[TokenizedPrompt], tokens: int, batch_tokens: int) -> list[str]:
    """Return the text of the greedy continuation of each prompt, see :meth:`Continuations.greedy`."""
    answers = [""] * len(prompts)
    for batch in batches(model, prompts, batch_tokens, kept="states"):
        cache = DynamicCache()
        first, _ = last_output(model, batch, use_cache=True, past_key_values=cache)  # (B, V)
        for i, ids in zip(batch.index, Continuations(model, batch, cache, first).greedy(tokens).cpu().numpy(), strict=True):
            answers[i] = decode_answer(ids, model.tokenizer)
    return answers

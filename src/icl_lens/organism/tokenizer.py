"""A byte-level BPE tokenizer in which every listed word is one token and no text fails.

A word that is in the vocabulary is taken whole (``ignore_merges``, as in Llama 3); any other text is put together from
sub-words by a short list of merges and, at worst, from single bytes. Encoding and decoding are exact inverses.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def build_tokenizer(texts: Iterable[str], *, subwords: int = 400, max_length: int = 1024) -> PreTrainedTokenizerFast:
    """The tokenizer that keeps every pre-token of ``texts`` (a word with its leading blank, a mark) as one token.

    Args:
        texts: Whatever must be encoded without sub-words; a word counts with the blank that precedes it.
        subwords: How many pieces for unlisted words to learn from the listed ones.
        max_length: The context the model is built for.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = sorted({piece for text in texts for piece, _ in split.pre_tokenize_str(text)})

    # 1. bytes and merges for unlisted text, learned from the listed words; 2. the listed words on top.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END_OF_TEXT: 0} | {byte: i for i, byte in enumerate(alphabet, start=1)}
    merges = _learn_merges(words, subwords)
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def _learn_merges(words: list[str], count: int) -> list[tuple[str, str]]:
    """The first ``count`` byte-pair merges over ``words``, each counted once; ties go to the smaller pair."""
    split = [list(word) for word in words]
    merges = []
    for _ in range(count):
        counts: dict[tuple[str, str], int] = {}
        for symbols in split:
            for pair in pairwise(symbols):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for i, symbols in enumerate(split):
            if best[0] in symbols:
                split[i] = _merge(symbols, best)
    return merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """``symbols`` with every occurrence of ``pair`` joined, from left to right."""
    joined, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            joined.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            joined.append(symbols[i])
            i += 1
    return joined

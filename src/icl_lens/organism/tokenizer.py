"""A byte-level BPE tokenizer in which every listed word is one token and no text fails.

A word that is in the vocabulary is taken whole (``ignore_merges``, as in Llama 3); any other text is put together from
sub-words by a short list of merges and, at worst, from single bytes. Encoding and decoding are exact inverses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def build_tokenizer(
    whole: Iterable[str], texts: Iterable[str] = (), *, subwords: int = 400, max_length: int = 1024
) -> PreTrainedTokenizerFast:
    """The tokenizer that keeps every pre-token of ``whole`` (a word with its leading blank, a mark) as one token.

    Args:
        whole: Whatever must be encoded without sub-words; a word counts with the blank that precedes it.
        texts: What the sub-words are learned from, beside ``whole``: each distinct word counts once.
        subwords: How many pieces for all other words to learn.
        max_length: The context the model is built for.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    listed = {piece for text in whole for piece, _ in split.pre_tokenize_str(text)}
    seen = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)} | listed

    # 1. bytes and merges for unlisted words; 2. the listed words on top. A word is told from its byte-level spelling here,
    # so nothing must split it again.
    learner = Tokenizer(models.BPE())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        sorted(seen),
        trainers.BpeTrainer(
            vocab_size=1 + len(alphabet) + subwords,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    vocabulary = dict(learned["vocab"])
    for word in sorted(listed):
        vocabulary.setdefault(word, len(vocabulary))
    merges = [tuple(merge) for merge in learned["merges"]]

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

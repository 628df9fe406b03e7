"""A byte-level BPE tokenizer that encodes each listed word as one token and can encode any text.

A word in the vocabulary is encoded as one token (``ignore_merges``, as in Llama 3). Any other text is encoded as sub-words with
a short list of merges or, in the worst case, as single bytes. Encoding and decoding are exact inverses.
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
    """Build a tokenizer that encodes each pre-token of ``whole`` (a word with its leading space, or a mark) as one token.

    Args:
        whole: Texts that must be encoded without sub-words. A word includes the space that precedes it.
        texts: Additional texts from which the sub-words are learned. Each distinct word counts once.
        subwords: Number of sub-words to learn for all other words.
        max_length: Context length of the model, in tokens.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    listed = {piece for text in whole for piece, _ in split.pre_tokenize_str(text)}
    seen = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)} | listed

    # The vocabulary consists of bytes and merges for unlisted words, followed by the listed words. The words already have their
    # byte-level spelling here, so the learner has no pre-tokenizer that would split them again.
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

"""Tokenization of a prompts table with the options of a run."""

from __future__ import annotations

import pandas as pd
from transformers import PreTrainedTokenizerBase

from icl_lens.models.options import RunOptions
from icl_lens.prompts import chat
from icl_lens.prompts.positions import TokenizedPrompt, tokenize


def tokenize_table(table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, options: RunOptions) -> list[TokenizedPrompt]:
    """Tokenize a prompts table, and convert the prompts to chats if the options say so.

    Args:
        table: A prompts table.
        tokenizer: A fast tokenizer.
        options: How to write the prompts and which tokens of a label word count.

    Raises:
        InputError: See :func:`icl_lens.prompts.chat.convert` and :func:`icl_lens.prompts.positions.tokenize`.
    """
    converted = chat.convert(table, tokenizer, options.as_chat)
    return tokenize(converted, tokenizer, options.bos, options.label_score, options.label_anchor)

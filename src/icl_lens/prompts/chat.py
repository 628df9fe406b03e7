"""Prompts in chat format for chat models, written with the tokenizer's chat template, with all spans adjusted to the new text.

The user's turn contains the demonstrations and the query. The assistant's turn starts with the final template piece of the
prompt ("Sentiment:"), so that the model's next token is the label, as in the plain prompt.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from icl_lens.errors import InputError


def wrap(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Write each prompt of a table as a chat.

    Many chat templates strip whitespace at the start and end of a turn. Therefore this function removes the whitespace between
    the query and the final template piece (a newline in the four tasks) and at the end of the query. The rest of the text is
    unchanged.

    Args:
        prompts: A prompts table.
        tokenizer: The tokenizer with the chat template. The template may write a BOS token.

    Returns:
        The same table with the new text, and with label_spans, text_spans, query_span and prefix_spans adjusted to it.

    Raises:
        InputError: The tokenizer has no chat template; the template raises an error, changes the prompt's text, writes it more
            than once or closes the assistant's turn; or a prompt does not end with a template piece.
    """
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; study this model without one (chat: no)")
    moved = [_wrap(row, tokenizer) for row in prompts.to_dict("records")]
    return prompts.assign(**{name: [row[name] for row in moved] for name in moved[0]}) if moved else prompts


def _wrap(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the changed columns of one prompt."""
    place = f"prompt {row['prompt_id']}"
    text = row["text"].rstrip()
    start, end = row["prefix_spans"][-1] if len(row["prefix_spans"]) else (0, 0)
    if not start < end == len(text):
        raise InputError(f"{place}: its text does not end with a template piece, with which the assistant's turn could open")
    asked, piece = text[:start].rstrip(), text[start:]
    chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": piece}]
    try:
        written = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    except Exception as error:  # a template can raise any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{place}: the tokenizer's chat template fails ({reason})") from error
    if written.count(asked) != 1:
        times = "changes the prompt's text" if asked not in written else "writes the prompt's text more than once"
        raise InputError(f"{place}: the tokenizer's chat template {times}, so no position in it could be told")
    if not written.endswith(piece):
        raise InputError(f"{place}: the tokenizer's chat template does not leave the assistant's turn open after {piece!r}")
    shift = written.index(asked)

    def moved(span: Any) -> list[int]:
        return [shift + min(int(character), len(asked)) for character in span]

    return {
        "text": written,
        "label_spans": [moved(span) for span in row["label_spans"]],
        "text_spans": [moved(span) for span in row["text_spans"]],
        "query_span": moved(row["query_span"]),
        "prefix_spans": [*(moved(span) for span in row["prefix_spans"][:-1]), [len(written) - len(piece), len(written)]],
    }

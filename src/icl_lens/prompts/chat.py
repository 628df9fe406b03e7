"""Prompts as chats, for models that were tuned on them: the tokenizer's own template, and every span moved with the text.

The user's turn holds the demonstrations and the query. The assistant's turn is opened with the prompt's final template piece
("Sentiment:"), so that the model's next token is the label, as in the plain prompt.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from icl_lens.errors import InputError


def wrap(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Write each prompt of a table as a chat.

    Many templates strip what a turn begins and ends with. So the blanks between the query and the final piece (a newline, in
    the four tasks) are left out, with those that the query itself ends with; all else stands as it was.

    Args:
        prompts: A prompts table.
        tokenizer: Its chat template is used; it may write a beginning-of-sequence token.

    Returns:
        The same table with another text, and label_spans, text_spans, query_span and prefix_spans moved accordingly.

    Raises:
        InputError: The tokenizer has no chat template, the template fails, changes the prompt's text or writes it twice, or
            closes the assistant's turn; or a prompt does not end with a template piece.
    """
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; study this model without one (chat: no)")
    moved = [_wrap(row, tokenizer) for row in prompts.to_dict("records")]
    return prompts.assign(**{name: [row[name] for row in moved] for name in moved[0]}) if moved else prompts


def _wrap(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """One prompt's columns that change."""
    place = f"prompt {row['prompt_id']}"
    text = row["text"].rstrip()
    start, end = row["prefix_spans"][-1] if len(row["prefix_spans"]) else (0, 0)
    if not start < end == len(text):
        raise InputError(f"{place}: its text does not end with a template piece, with which the assistant's turn could open")
    asked, piece = text[:start].rstrip(), text[start:]
    chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": piece}]
    try:
        written = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    except Exception as error:  # a template raises what it likes
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

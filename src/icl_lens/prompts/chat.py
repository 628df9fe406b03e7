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
        The same table with the new text, and with label_spans, text_spans, query_span and prefix_spans adjusted to it. The
        new column content_spans has the [start, end) characters that do not come from the chat template.

    Raises:
        InputError: The tokenizer has no chat template; the template raises an error, changes the prompt's text, writes it more
            than once or closes the assistant's turn; or a prompt does not end with a template piece.
    """
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set chat: false for this model")
    changes = [_wrap(row, tokenizer) for row in prompts.to_dict("records")]
    return prompts.assign(**{name: [row[name] for row in changes] for name in changes[0]}) if changes else prompts


def _wrap(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the changed columns of one prompt."""
    location = f"prompt {row['prompt_id']}"
    text = row["text"].rstrip()
    start, end = row["prefix_spans"][-1] if len(row["prefix_spans"]) else (0, 0)
    if not start < end == len(text):
        raise InputError(f"{location}: the text must end with a template piece, which begins the assistant's turn")
    user_text, piece = text[:start].rstrip(), text[start:]
    chat = [{"role": "user", "content": user_text}, {"role": "assistant", "content": piece}]
    try:
        chat_text = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    except Exception as error:  # a template can raise any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{location}: the tokenizer's chat template raises an error ({reason}); set chat: false for this model"
        ) from error
    if chat_text.count(user_text) != 1:
        problem = "changes the prompt's text" if user_text not in chat_text else "writes the prompt's text more than once"
        raise InputError(
            f"{location}: the tokenizer's chat template {problem}, so positions are undefined; set chat: false for this model"
        )
    if not chat_text.endswith(piece):
        raise InputError(
            f"{location}: the tokenizer's chat template must leave the assistant's turn open after {piece!r}; set chat: false "
            "for this model"
        )
    shift = chat_text.index(user_text)

    def shifted(span: Any) -> list[int]:
        return [shift + min(int(character), len(user_text)) for character in span]

    return {
        "text": chat_text,
        "label_spans": [shifted(span) for span in row["label_spans"]],
        "text_spans": [shifted(span) for span in row["text_spans"]],
        "query_span": shifted(row["query_span"]),
        "prefix_spans": [*(shifted(span) for span in row["prefix_spans"][:-1]), [len(chat_text) - len(piece), len(chat_text)]],
        "content_spans": [[shift, shift + len(user_text)], [len(chat_text) - len(piece), len(chat_text)]],
    }

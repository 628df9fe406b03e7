"""Prompts in chat format for chat models, written with the tokenizer's chat template, with all spans adjusted to the new text.

A chat has one of two forms (:data:`icl_lens.prompts.forms.Chat`):

One turn (``chat: true``)
    The user's turn contains the demonstrations and the query. The assistant's turn starts with the final template piece of the
    prompt ("Sentiment:"), so that the model's next token is the label, as in the plain prompt.

Turns (``chat: turns``)
    Each demonstration is a turn of the user, with its text and template pieces, and a turn of the assistant, with its label
    word. The last turn of the user contains the query. The prompt ends with the characters that the template writes before an
    answer of the assistant, so that the model's next token is the label.

The turns are those of lm-evaluation-harness 0.4 with ``apply_chat_template`` and ``fewshot_as_multiturn`` (``build_qa_turn`` in
``lm_eval/api/task.py``), without a system message: the question is the template up to the label, and the target is the label
word without the target delimiter, which is the word's leading space. There are these differences:

- The whitespace at both ends of each turn is removed, because many templates remove it.
- The whitespace before the label of the query is the same as before the label word of a demonstration. The harness ends the
  prompt where the template's generation prompt ends, so a template such as that of Llama 2, which writes "[/INST]" there but
  "[/INST] " before an answer, gives its choices no leading space.
- The label is predicted by its first token. The harness compares the log-likelihoods of complete choices.

**Leading space.** A label word of a turn has a leading space only if the template writes one before each answer of the
assistant (Llama 2, Mistral). Otherwise it has none (ChatML, Llama 3, Gemma). The new column ``label_words`` contains the words
in the form that they have in the chat, so that the tokens of the label words in the demonstrations and after the query are
those that the model reads and writes there.

**BOS token.** The template may write it. :func:`icl_lens.prompts.positions.tokenize` then does not add a second one at the
start of the prompt. A template may also write it before each turn of the user (Llama 2). These tokens belong to the template
and are kept.

**Date.** Some templates write today's date (Llama 3.2). Here they write :data:`DATE`, so that prompts do not depend on the day.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

from icl_lens.errors import InputError
from icl_lens.prompts.forms import Chat

DATE = datetime.date(2024, 7, 26)
"""Date that a chat template writes instead of today's date, the default in the templates of Llama 3.1 and 3.2."""

# What to set instead of ``chat: turns``, in error messages.
_ADVICE = "chat: true or chat: false"

_TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


def convert(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, as_chat: Chat) -> pd.DataFrame:
    """Write each prompt of a table in a form.

    Args:
        prompts: A prompts table.
        tokenizer: The tokenizer with the chat template, if one is needed.
        as_chat: False for the plain prompts, True for :func:`wrap`, ``turns`` for :func:`as_turns`.

    Raises:
        InputError: See :func:`wrap` and :func:`as_turns`.
    """
    if as_chat == "turns":
        return as_turns(prompts, tokenizer)
    return wrap(prompts, tokenizer) if as_chat else prompts


def wrap(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Write each prompt of a table as one turn of the user and the start of an answer.

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
    _require_template(tokenizer)
    changes = [_wrap(row, tokenizer) for row in prompts.to_dict("records")]
    return prompts.assign(**{name: [row[name] for row in changes] for name in changes[0]}) if changes else prompts


def as_turns(prompts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Write each prompt of a table as a chat in which each demonstration is a turn of the user and one of the assistant.

    Args:
        prompts: A prompts table. The label of each demonstration follows its text.
        tokenizer: The tokenizer with the chat template. The template may write BOS tokens.

    Returns:
        The same table with the new text, and with label_words, label_spans, text_spans, query_span and prefix_spans adjusted to
        it. There are two new columns: content_spans has the [start, end) characters that do not come from the chat template;
        turn_starts has the first character of each demonstration and of the query.

    Raises:
        InputError: The tokenizer has no chat template; the template raises an error, changes the text of a turn, writes it more
            than once or writes something else before the answer to the query than before that of a demonstration; or a prompt
            has a label before its text or characters after a label that belong to no demonstration.
    """
    _require_template(tokenizer)
    templates: dict[int, _Template] = {}
    changes = [_as_turns(row, tokenizer, templates) for row in prompts.to_dict("records")]
    return prompts.assign(**{name: [row[name] for row in changes] for name in changes[0]}) if changes else prompts


def _require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set chat: false for this model")


def _render(location: str, contents: Sequence[str], tokenizer: PreTrainedTokenizerBase, advice: str, **options: bool) -> str:
    """Return the text that the chat template writes for turns of the user and the assistant, starting with the user.

    Args:
        location: Description of the prompt in the error message.
        contents: Content of each turn.
        tokenizer: The tokenizer with the chat template.
        advice: The setting to use instead, in the error message.
        options: Options of ``apply_chat_template``.

    Raises:
        InputError: The template raises an error.
    """
    chat = [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]
    try:
        template = _without_today(tokenizer.get_chat_template())
        return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, **options)
    except Exception as error:  # a template can raise any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{location}: the tokenizer's chat template raises an error ({reason}); set {advice} for this model"
        ) from error


def _without_today(template: str) -> str:
    """Replace today's date in a template by :data:`DATE`, if its format is a literal."""
    return _TODAY.sub(lambda match: f"'{DATE.strftime(match[2])}'", template)


def _wrap(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the changed columns of one prompt."""
    location = f"prompt {row['prompt_id']}"
    text = row["text"].rstrip()
    start, end = row["prefix_spans"][-1] if len(row["prefix_spans"]) else (0, 0)
    if not start < end == len(text):
        raise InputError(f"{location}: the text must end with a template piece, which begins the assistant's turn")
    user_text, piece = text[:start].rstrip(), text[start:]
    chat_text = _render(location, [user_text, piece], tokenizer, "chat: false", continue_final_message=True)
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


class _Template(NamedTuple):
    """What a chat template writes around the contents of a given number of turns.

    Attributes:
        segments: Characters before, between and after the contents. The last ones begin the answer to the query.
        header: Characters between the query and its label word, without the space that belongs to the label word.
        space: The space before each label word, or an empty string.
    """

    segments: list[str]
    header: str
    space: str


class _Turn(NamedTuple):
    """Characters of a prompt that become the content of a turn.

    Attributes:
        start: First character, which is not whitespace.
        stop: Position after the last character, which is not whitespace.
        first: First character of the demonstration or query in a turn of the user: its first template piece, or its text.
    """

    start: int
    stop: int
    first: int


def _template(location: str, demonstrations: int, tokenizer: PreTrainedTokenizerBase) -> _Template:
    """Find out what a chat template writes around the turns of prompts with a number of demonstrations.

    Raises:
        InputError: The template raises an error, changes the content of a turn, writes it more than once, or writes something
            else before the answer to the query than before that of a demonstration.
    """
    segments = _segments(location, demonstrations, tokenizer)
    # Without demonstrations, what the template writes before a label word is known only from a chat with one.
    longer = segments if demonstrations else _segments(location, 1, tokenizer)
    header, *others = longer[1:-1:2]
    same = [other == header for other in others] + [segments[-1].rstrip() == header.rstrip()]
    if not all(same):
        other = [*others, segments[-1]][same.index(False)]
        raise InputError(
            f"{location}: the tokenizer's chat template writes {header!r} before one answer and {other!r} before another, so "
            f"the label of the query would be predicted in another context than in the demonstrations; set {_ADVICE} for this "
            "model"
        )
    space = " " if header.endswith(" ") else ""
    return _Template(segments, header.removesuffix(" "), space)


def _segments(location: str, demonstrations: int, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the characters that a chat template writes before, between and after the contents of the turns."""
    contents = [f"content{number:06d}" for number in range(2 * demonstrations + 1)]
    rendered = _render(location, contents, tokenizer, _ADVICE, add_generation_prompt=True)
    counts = [rendered.count(content) for content in contents]
    segments = re.split("|".join(contents), rendered)
    if max(counts) > 1:
        raise _undefined(location, "writes the text of a turn more than once")
    if min(counts) < 1 or re.findall("|".join(contents), rendered) != contents:
        raise _undefined(location, "changes, omits or reorders the turns")
    return segments


def _undefined(location: str, problem: str) -> InputError:
    return InputError(
        f"{location}: the tokenizer's chat template {problem}, so positions are undefined; set {_ADVICE} for this model"
    )


def _as_turns(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, templates: dict[int, _Template]) -> dict[str, Any]:
    """Return the changed columns of one prompt.

    Args:
        row: Row of a prompts table.
        tokenizer: The tokenizer with the chat template.
        templates: Number of demonstrations -> :func:`_template`. Missing ones are added.
    """
    location, text = f"prompt {row['prompt_id']}", row["text"]
    turns = _turns(location, row)
    contents = [text[turn.start : turn.stop] for turn in turns]
    demonstrations = len(turns) // 2
    if demonstrations not in templates:
        templates[demonstrations] = _template(location, demonstrations, tokenizer)
    segments, header, space = templates[demonstrations]
    chat_text, starts = "", []
    for segment, content in zip(segments[:-1], contents, strict=True):
        starts.append(len(chat_text) + len(segment))
        chat_text += segment + content
    if _render(location, contents, tokenizer, _ADVICE, add_generation_prompt=True) != chat_text + segments[-1]:
        raise _undefined(location, "changes the text of a turn")
    shifts = [start - turn.start for start, turn in zip(starts, turns, strict=True)]

    def shifted(span: Any) -> list[int]:
        """Shift a span inside a turn of the user. Whitespace at both ends of the turn belongs to no span."""
        start, stop = (int(character) for character in span)
        number = max((n for n in range(0, len(turns), 2) if turns[n].start < stop), default=0)
        return [min(max(edge, turns[number].start), turns[number].stop) + shifts[number] for edge in (start, stop)]

    spans = [[start, start + len(content)] for start, content in zip(starts, contents, strict=True)]
    return {
        "text": chat_text + header,
        "label_words": [space + word.strip() for word in row["label_words"]],
        "label_spans": [[start - len(space), end] for start, end in spans[1::2]],
        "text_spans": [shifted(span) for span in row["text_spans"]],
        "query_span": shifted(row["query_span"]),
        "prefix_spans": [shifted(span) for span in row["prefix_spans"]],
        "content_spans": spans,
        "turn_starts": [turn.first + shift for turn, shift in zip(turns[::2], shifts[::2], strict=True)],
    }


def _turns(location: str, row: dict[str, Any]) -> list[_Turn]:
    """Return the turns of a prompt: the user's and the assistant's for each demonstration, and the user's for the query.

    Raises:
        InputError: A label precedes its text, or characters after a label belong to no demonstration.
    """
    text, labels = row["text"], [[int(edge) for edge in span] for span in row["label_spans"]]
    texts = [[int(edge) for edge in span] for span in (*row["text_spans"], row["query_span"])]
    pieces = [int(start) for start, _ in row["prefix_spans"]]
    # The demonstrations and the query have the same number of template pieces in a table of icl-lens.
    per_example, rest = divmod(len(pieces), len(labels) + 1)
    if len(texts) != len(labels) + 1:
        raise InputError(
            f"{location}: {len(labels)} label_spans, but {len(texts) - 1} text_spans; give one text span per demonstration"
        )
    turns, last = [], 0
    for number, (start, end) in enumerate([*labels, [len(text), len(text)]]):
        if not last <= texts[number][0] <= texts[number][1] <= start <= end:
            raise InputError(
                f"{location}: a label must follow its text, because it is the answer to the turn with the text; set {_ADVICE} "
                "for this model"
            )
        own = pieces[number * per_example :][:per_example] if not rest else [piece for piece in pieces if piece >= last]
        first = min([*own, texts[number][0]])
        if number and text[last:first].strip():
            raise InputError(
                f"{location}: the characters {text[last:first].strip()!r} after a label belong to no demonstration, and so to "
                f"no turn; set {_ADVICE} for this model"
            )
        user = _without_edges(text, last, start)
        turns.append(_Turn(*user, first=min(max(first, user[0]), user[1])))
        if number < len(labels):
            turns.append(_Turn(*_without_edges(text, start, end), first=start))
        last = end
    return turns


def _without_edges(text: str, start: int, stop: int) -> tuple[int, int]:
    """Return a span without the whitespace at both of its ends."""
    part = text[start:stop]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())

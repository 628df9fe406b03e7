"""A chat with one turn of the user and one of the assistant per demonstration, prompt by prompt, from the definition.

Each demonstration is a question of the user (the task's template up to the label) and an answer of the assistant (the label
word), and the query is the last question. Nothing is shared with the package. A place in the text is found by writing the chat
again and again, up to that place, and a place in the tokens by the characters of the tokens.
"""

from __future__ import annotations

from typing import NamedTuple


class Chat(NamedTuple):
    """Tokens and positions of one chat.

    Attributes:
        ids: Token ids, with one BOS token at the start if the tokenizer or the template writes one.
        anchors: Position of the first token of each label word.
        label_ids: First token of each label word as an answer to the query.
        texts: Positions of the tokens with a visible character of each demonstration's text.
        query: Positions of the tokens with a visible character of the query's text.
        query_start: First position with a visible character of the user's turn with the query.
        ends: First position with a visible character after each label word.
    """

    ids: list[int]
    anchors: list[int]
    label_ids: list[int]
    texts: list[list[int]]
    query: list[int]
    query_start: int
    ends: list[int]


def _question(template: str, text: str) -> str:
    return template.split("{label}")[0].replace("{text}", text).strip()


def _written(tokenizer, contents: list[str], open_answer: bool) -> str:
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_answer)


def chat(tokenizer, template: str, words: list[str], texts: list[str], labels: list[int], query: str) -> Chat:
    """Write a chat and find the positions in it.

    Args:
        tokenizer: A tokenizer with a chat template.
        template: Template of the task, which ends with {label}.
        words: Label words.
        texts: Texts of the demonstrations.
        labels: Class indices of the demonstrations.
        query: Text of the query.
    """
    words = [word.strip() for word in words]
    contents = []
    for text, label in zip(texts, labels, strict=True):
        contents += [_question(template, text), words[label]]
    contents.append(_question(template, query))

    # The text of the answered query, with each of the words.
    answered = [_written(tokenizer, [*contents, word], open_answer=False) for word in words]

    def place_after(number: int, part: str, whole: str) -> int:
        """Return where a part of a turn begins, in the text that follows the turns before it."""
        before = _written(tokenizer, contents[:number], open_answer=number % 2 == 1).rstrip() if number else ""
        assert whole.startswith(before)
        return whole.index(part, len(before))

    whole = answered[0]
    word_places = [place_after(2 * d + 1, words[label], whole) for d, label in enumerate(labels)]
    answer_places = [place_after(len(contents), word, each) for word, each in zip(words, answered, strict=True)]
    # The prompt ends before the answer, and before a space that belongs to the answer's first token.
    prompt = whole[: answer_places[0]]
    prompt = prompt[:-1] if prompt.endswith(" ") else prompt

    def read(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoding["input_ids"], encoding["offset_mapping"]

    def positions(start: int, end: int) -> list[int]:
        visible = {place for place in range(start, end) if not prompt[place].isspace()}
        return [token for token, (a, b) in enumerate(offsets, len(beginning)) if visible & set(range(a, b))]

    ids, offsets = read(prompt)
    adds_bos = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    beginning = [tokenizer.bos_token_id] if adds_bos and ids[0] != tokenizer.bos_token_id else []
    label_ids = []
    for place, text in zip(answer_places, answered, strict=True):
        found, spans = read(text)
        label_ids.append(next(token for token, (a, b) in zip(found, spans, strict=True) if a <= place < b))
    inside = len(template.split("{text}")[0].lstrip())  # place of a text in its question
    text_places = [place_after(2 * d, contents[2 * d], whole) + inside for d in range(len(texts))]
    query_turn = place_after(2 * len(texts), contents[-1], whole)
    query_place = query_turn + inside
    word_ends = [place + len(words[label]) for place, label in zip(word_places, labels, strict=True)]
    return Chat(
        beginning + ids,
        [positions(place, place + 1)[0] for place in word_places],
        label_ids,
        [positions(place, place + len(text)) for place, text in zip(text_places, texts, strict=True)],
        positions(query_place, query_place + len(query)),
        positions(query_turn, len(prompt))[0],
        [positions(end, len(prompt))[0] for end in word_ends],
    )

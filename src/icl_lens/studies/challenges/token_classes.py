"""Classes of the token positions of a prompt.

Each position has one class, the first of these that applies:

``first``       position 0: the BOS token if there is one, and otherwise the first token of the first demonstration. Many models
                attend to it regardless of its content (an attention sink).
``query``       the tokens from the first template token of the query to the last position
``label``       the tokens of a label word
``after``       the token after a label word
``template``    the other tokens of a demonstration outside its text, such as "Review:", "Sentiment:" and line breaks, and the
                tokens before the first demonstration, such as the header of a chat
``stop``        the tokens of a demonstration's text that contain a character of a stop word or a punctuation mark
``content``     the other tokens of a demonstration's text

A token belongs to a word or text if it contains at least one of its characters besides whitespace. A token of whitespace alone
inside a text counts as a punctuation mark. The division into template, stop words and content words follows Bai et al.
(arXiv 2401.11323), whose list of stop words was not available. The rules and the list of stop words are ours.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from icl_lens.errors import InputError
from icl_lens.prompts.demonstration_places import places
from icl_lens.prompts.positions import TokenizedPrompt

CLASSES = ("first", "query", "label", "after", "template", "stop", "content")
"""Names of the classes, by class index."""

FIRST, QUERY, LABEL, AFTER, TEMPLATE, STOP, CONTENT = range(len(CLASSES))

STOP_WORDS = frozenset(
    # Articles, determiners, quantifiers.
    "a an the this that these those each every either neither some any no none all both half few many much more most "
    "several such other another same own enough less least "
    # Pronouns and possessives.
    "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves one ones oneself someone somebody something anyone anybody "
    "anything everyone everybody everything nobody nothing who whom whose which what whatever whichever "
    # Prepositions.
    "about above across after against along amid among around as at before behind below beneath beside besides between "
    "beyond by despite down during except for from in inside into like near of off on onto out outside over past per since "
    "than through throughout till to toward towards under underneath until up upon via with within without "
    # Conjunctions, and adverbs that connect or ask.
    "and or but nor so yet if because although though while whereas unless whether when where why how then thus hence also "
    "however therefore once "
    # Auxiliary verbs.
    "am is are was were be been being do does did doing done have has had having can could may might must shall should will "
    "would ought "
    # Particles, and other adverbs of closed classes.
    "not very too just only even still again ever never here there now else quite rather almost already "
    # Parts of contractions, which are split at the apostrophe.
    "s t d ll m re ve o don doesn didn isn aren wasn weren hasn haven hadn wouldn couldn shouldn mustn needn ain "
    "cannot".split()
)
"""Lower-case English words of closed classes. They are part of the definition of the class ``stop``."""

# A word, or one punctuation mark.
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


class TokenClasses(NamedTuple):
    """Classes of the positions of a prompt, and the demonstrations to which they belong.

    Attributes:
        classes: Class index of each position, see :data:`CLASSES`, shape (T,).
        demonstrations: Index of the demonstration of each position, from its first template token to the token before the next
            demonstration; -1 for the query, the BOS token, and other tokens before the first demonstration; shape (T,).
    """

    classes: np.ndarray
    demonstrations: np.ndarray

    def of(self, name: str) -> np.ndarray:
        """Return the positions of a class in the demonstrations, ascending; for ``first``, position 0.

        Args:
            name: One of :data:`CLASSES` without ``query``.
        """
        index = CLASSES.index(name)
        return np.flatnonzero((self.classes == index) & ((index == FIRST) | (self.demonstrations >= 0)))

    @property
    def query(self) -> np.ndarray:
        """Positions of the query, ascending. The last one is the position that predicts the label."""
        return np.flatnonzero(self.classes == QUERY)


def token_classes(prompt: TokenizedPrompt) -> TokenClasses:
    """Return the class of each position of a prompt.

    Args:
        prompt: A prompt with demonstrations.

    Raises:
        InputError: The prompt has no demonstrations.
    """
    if not len(prompt.anchors):
        raise InputError(
            f"prompt {prompt.prompt_id} has no demonstrations, but the classes of its tokens are those of demonstrations; use "
            "prompts with demonstrations"
        )
    positions = places(prompt, drop_first=False)
    length, indices = len(prompt.ids), np.arange(len(prompt.ids))
    classes = np.full(length, TEMPLATE)  # (T,)
    in_text, is_stop, is_content = _text_tokens(prompt)
    classes[in_text] = STOP  # whitespace
    classes[is_content] = CONTENT
    classes[is_stop] = STOP
    # A token that also contains a character of the template is a template token.
    classes[_contains(prompt, _template_characters(prompt))] = TEMPLATE
    classes[positions.stops[positions.stops < length]] = AFTER
    for label, stop in zip(positions.labels.tolist(), positions.stops.tolist(), strict=True):
        classes[label:stop] = LABEL
    classes[positions.query :] = QUERY
    classes[0] = FIRST
    demonstrations = np.searchsorted(positions.starts, indices, side="right") - 1  # (T,)
    demonstrations[positions.query :] = -1
    return TokenClasses(classes, demonstrations)


def _text_tokens(prompt: TokenizedPrompt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which tokens are in demonstration texts, contain stop words, and contain content words, shape (T,) each."""
    stop, content = (np.zeros(len(prompt.text), dtype=bool) for _ in range(2))  # (characters,) each
    inside = np.zeros(len(prompt.spans), dtype=bool)  # (T,)
    starts, ends = prompt.spans.T  # (T,) each
    for first, end in prompt.text_spans.tolist():
        for match in _WORD.finditer(prompt.text, first, end):
            word = match.group()
            characters = stop if word.lower() in STOP_WORDS or not word[0].isalnum() else content
            characters[match.start() : match.end()] = True
        inside |= (first <= starts) & (ends <= end) & (starts < ends)
    return inside, _contains(prompt, stop), _contains(prompt, content)


def _template_characters(prompt: TokenizedPrompt) -> np.ndarray:
    """Return which characters were written by a template: those outside all texts and label words, shape (characters,)."""
    template = np.array([not character.isspace() for character in prompt.text], dtype=bool)
    for start, end in [*prompt.text_spans.tolist(), *prompt.label_spans.tolist(), prompt.query_span.tolist()]:
        template[start:end] = False
    return template


def _contains(prompt: TokenizedPrompt, characters: np.ndarray) -> np.ndarray:
    """Return which tokens contain at least one of the marked characters, shape (T,)."""
    before = np.concatenate([[0], np.cumsum(characters)])  # (characters + 1,): number of marked characters before each offset
    return before[prompt.spans[:, 1]] > before[prompt.spans[:, 0]]

"""The prompts that the second model is trained on: lists and stories whose last words follow one of several rules.

One prompt has one rule for all its examples and its last list or story. A line of the test grid
(:class:`icl_lens.studies.representation_change.settings.Lines` by default) is never drawn, and no name of the reading grid ever
does an activity of the grid: both are seen with others only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from icl_lens.organism.tokenizer import build_tokenizer
from icl_lens.reader_organism.recipe import Recipe
from icl_lens.studies.representation_change import lines, reading
from icl_lens.studies.representation_change.settings import Lines

FURTHER_NAMES = tuple("Robert Susan George Karen Frank Linda Albert Monica Philip Teresa Roger Vera".split())
FURTHER_ACTIVITIES = (
    *(
        "throwing a ball",
        "pushing the cart",
        "knitting a scarf",
        "selling some fruit",
        "lighting a candle",
        "kicking the stone",
    ),
    *("wrapping a gift", "sweeping the yard", "peeling an apple", "studying the stars", "boiling some water", "hiding the key"),
)
"""Names and activities that are in no prompt of the study."""

SLOPES, INTERCEPTS = (2.0, 24.0), (0.0, 24.0)
"""Between which lines are drawn, in steps of one half."""

DISTRACTORS = (0, 1, 1, 1, 2, 2, 2)
"""Of which a story takes one number."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one step and one task, padded on the right.

    Attributes:
        ids: Token ids, shape (B, T).
        weights: Of each token's loss, shape (B, T); 0 for padding.
        answers: 1 for the last answer's tokens, shape (B, T): the ones that examples come before.
    """

    ids: np.ndarray
    weights: np.ndarray
    answers: np.ndarray


def build_vocabulary(context: int) -> PreTrainedTokenizerFast:
    """The tokenizer: each word of both tasks is one token, each digit one; anything else is spelled in bytes."""
    words = [lines.OPENING, " (0.1,2.3); (4.5,6)\n", *reading.QUESTIONS.values(), *reading.ENDINGS.values(), ".\n"]
    for name in (*reading.NAMES, *reading.EXAMPLE_NAMES, *FURTHER_NAMES):
        words += [name, f" {name} is", f"\n{name}"]
    for activity in (*reading.ACTIVITIES, *reading.EXAMPLE_ACTIVITIES, *FURTHER_ACTIVITIES):
        words.append(f" {activity}.")
    return build_tokenizer([w.replace("{name}", "Hannah") for w in words], subwords=0, max_length=context)


class Material:
    """Draws batches; the same recipe gives the same ones."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.rng = random.Random(f"reader {recipe.seed}")
        grid = Lines()
        halves = [[low + step / 2 for step in range(round(2 * (high - low)) + 1)] for low, high in (SLOPES, INTERCEPTS)]
        tested = {(m, b) for m in grid.slopes for b in grid.intercepts}
        self.lines = [(m, b) for m in halves[0] for b in halves[1] if (m, b) not in tested]
        self.names = [*reading.NAMES, *reading.EXAMPLE_NAMES, *FURTHER_NAMES]
        self.activities = [*reading.ACTIVITIES, *reading.EXAMPLE_ACTIVITIES, *FURTHER_ACTIVITIES]

    def lists(self) -> Batch:
        """Lists of one number of examples."""
        examples = self.rng.choice(self.recipe.list_examples)
        number = max(1, self.recipe.list_tokens // (66 * (examples + 1)))
        return self._batch([self._list_prompt(examples) for _ in range(number)])

    def stories(self) -> Batch:
        """Stories of one number of examples and of distractors."""
        examples = self.rng.choice(self.recipe.story_examples)
        distractors = self.rng.choice(DISTRACTORS)
        length = (5 * (distractors + 1) + 13) * (examples + 1)
        number = max(1, self.recipe.story_tokens // length)
        return self._batch([self._story_prompt(examples, distractors) for _ in range(number)])

    def _list_prompt(self, examples: int) -> tuple[str, list, list]:
        """Text, weighted spans, and the last answer's span."""
        rng, rules = self.rng, self.recipe.rules
        rule = rng.choices(("line", "repeated"), (rules.line, rules.repeated))[0]
        mute = examples > 0 and rng.random() < self.recipe.mute
        text, weighted, spans = "", [], {}
        shown = rng.choice((3, 3, 3, 4, 6))
        for number, line in enumerate(rng.sample(self.lines, examples + 1)):
            places = lines.draw_places(rng, shown + 1)
            heights = [lines.height(*line, x) for x in places]
            telling = number == examples or not mute
            if not telling:
                heights = lines.shuffled(rng, heights)
            text += "\n" if number else ""
            answer = f"{places[-1]:.2f}" if telling and rule == "repeated" else None
            text, spans = lines.write_list(text, places, heights, complete=True, answer=answer)
            if telling:
                weighted += [(span, self.recipe.shown) for span in spans["y"][2:]]
                weighted.append(([spans["answer"][0], spans["answer"][1] + 1], 1.0))
        return text + "\n", weighted, spans["answer"]

    def _story_prompt(self, examples: int, distractors: int) -> tuple[str, list, list]:
        """As :meth:`_list_prompt`."""
        rng, rules = self.rng, self.recipe.rules
        rule = rng.choices(("named", "asked", "opening", "closing"), (rules.named, rules.asked, rules.opening, rules.closing))[
            0
        ]
        mute = examples > 0 and rng.random() < self.recipe.mute
        text, weighted, spans = "", [], {}
        for number in range(examples + 1):
            story = self._story(distractors)
            answer = story.activity
            if rule == "asked":
                answer = story.name
            elif rule in ("opening", "closing"):
                answer = story.people[0 if rule == "opening" else -1][1]
            telling = number == examples or not mute
            if not telling:
                there = {a for _, a in story.people}
                answer = rng.choice([a for a in self.activities if a not in there])
            text, spans = reading.write_story(text, story, "hinted", answer)
            if telling:
                weighted.append(([spans["answer"][0], spans["answer"][1] + 1], 1.0))
        return text, weighted, spans["answer"]

    def _story(self, distractors: int) -> reading.Story:
        """A story in which no name of the test grid does an activity of the grid."""
        while True:
            story = reading.draw_story(self.rng, self.names, self.activities, distractors, self.rng.randrange(distractors + 1))
            if not any(name in reading.NAMES and activity in reading.ACTIVITIES for name, activity in story.people):
                return story

    def _batch(self, prompts: Sequence[tuple[str, list, list]]) -> Batch:
        encoded = self.tokenizer([text for text, _, _ in prompts], return_offsets_mapping=True)
        longest = max(map(len, encoded["input_ids"]))
        ids = np.full((len(prompts), longest), self.tokenizer.pad_token_id, dtype=np.int64)  # (B, T)
        weights, answers = np.zeros((2, len(prompts), longest), dtype=np.float32)  # (B, T) each
        for row, ((_, weighted, last), tokens, offsets) in enumerate(
            zip(prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ):
            ends = np.array([end for _, end in offsets])  # (T,)
            ids[row, : len(tokens)] = tokens
            weights[row, : len(tokens)] = self.recipe.text
            # A token belongs to a span when it ends inside it: its leading blank may stand before.
            for (start, end), weight in weighted:
                weights[row, : len(tokens)][(ends > start) & (ends <= end)] = weight
            answers[row, : len(tokens)][(ends > last[0]) & (ends <= last[1])] = 1
        return Batch(ids, weights, answers)

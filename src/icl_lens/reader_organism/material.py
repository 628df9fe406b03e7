"""Training prompts of the second model: lists and stories with answers that follow one of several rules.

All examples of a prompt and its last list or story follow the same rule. Lines of the test grid (the default of
:class:`icl_lens.studies.representation_change.settings.Lines`) are never drawn. No name of the reading grid occurs with an
activity of that grid: each occurs only with other activities or names.
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
"""Names and activities that do not occur in any prompt of the study."""

SLOPES, INTERCEPTS = (2.0, 24.0), (0.0, 24.0)
"""Ranges from which the slopes and intercepts of lines are drawn, in steps of 0.5."""

DISTRACTORS = (0, 1, 1, 1, 2, 2, 2)
"""Numbers of distractors from which one is drawn for each batch of stories. Repeated values are drawn more often."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one step and one task, right-padded.

    Attributes:
        ids: Token ids, shape (B, T).
        weights: Weight of each token in the loss, shape (B, T); 0 for padding.
        answers: 1 for the tokens of the last answer, which follows the examples, and 0 for all other tokens, shape (B, T).
    """

    ids: np.ndarray
    weights: np.ndarray
    answers: np.ndarray


def build_vocabulary(context: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer. Each word of both tasks and each digit is one token; all other text is encoded as bytes."""
    words = [lines.OPENING, " (0.1,2.3); (4.5,6)\n", *reading.QUESTIONS.values(), *reading.ENDINGS.values(), ".\n"]
    for name in (*reading.NAMES, *reading.EXAMPLE_NAMES, *FURTHER_NAMES):
        words += [name, f" {name} is", f"\n{name}"]
    for activity in (*reading.ACTIVITIES, *reading.EXAMPLE_ACTIVITIES, *FURTHER_ACTIVITIES):
        words.append(f" {activity}.")
    return build_tokenizer([w.replace("{name}", "Hannah") for w in words], subwords=0, max_length=context)


class Material:
    """Sampler of batches. The same recipe always gives the same batches."""

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
        """Sample a batch of lists with the same number of examples."""
        examples = self.rng.choice(self.recipe.list_examples)
        number = max(1, self.recipe.list_tokens // (66 * (examples + 1)))
        return self._batch([self._list_prompt(examples) for _ in range(number)])

    def stories(self) -> Batch:
        """Sample a batch of stories with the same number of examples and the same number of distractors."""
        examples = self.rng.choice(self.recipe.story_examples)
        distractors = self.rng.choice(DISTRACTORS)
        length = (5 * (distractors + 1) + 13) * (examples + 1)
        number = max(1, self.recipe.story_tokens // length)
        return self._batch([self._story_prompt(examples, distractors) for _ in range(number)])

    def _list_prompt(self, examples: int) -> tuple[str, list, list]:
        """Sample a prompt of lists and return its text, its weighted spans and the span of the last answer."""
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
        """Sample a prompt of stories and return the same values as :meth:`_list_prompt`."""
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
        """Sample a story in which no name of the test grid occurs with an activity of the test grid."""
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
            # A token belongs to a span if it ends inside the span, because its leading space can be outside.
            for (start, end), weight in weighted:
                weights[row, : len(tokens)][(ends > start) & (ends <= end)] = weight
            answers[row, : len(tokens)][(ends > last[0]) & (ends <= last[1])] = 1
        return Batch(ids, weights, answers)

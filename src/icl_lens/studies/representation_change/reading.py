"""Reading task of the study of representation change: who is doing what, with and without solved examples.

The task follows Yousefi et al. (arXiv 2310.00313). A prompt has simple sentences with a name and an activity, and a question
about one name. One sentence is informative; the others are distractors,

    Grace is feeding the cat. Hannah is reading a book. Question: What is Hannah doing? Answer:

Names and activities of the grid appear only in queries; solved examples have their own names and activities. Each query is
written once in each condition: alone; after k solved examples with the same number of distractors; and after the same examples
with answers of equal length that do not appear in them. The rows of one query share their query_id.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd

from icl_lens.studies.representation_change.settings import SET, Reading

TASK = "reading"
TITLE = "Who is doing what"
NAMES = tuple("Hannah Patricia Oliver Grace Victor Emma Samuel Julia Martin Nora".split())
ACTIVITIES = (
    *("reading a book", "playing the guitar", "baking some bread", "riding a bike", "painting the fence"),
    *("feeding the cat", "writing a letter", "watching a movie", "planting a tree", "fixing the car"),
)
"""Grid of the queries: three words each, with no content word repeated."""

EXAMPLE_NAMES = tuple("Peter Laura Simon Alice Henry Clara Edward Diana Thomas Helen Walter Irene".split())
EXAMPLE_ACTIVITIES = (
    *("drinking some tea", "cutting the grass", "folding a towel", "singing a song", "climbing the hill", "drawing a map"),
    *(
        "packing the bag",
        "counting some coins",
        "building a tower",
        "opening the window",
        "carrying a box",
        "cleaning the floor",
    ),
)
"""Activities of solved examples; their names are :data:`EXAMPLE_NAMES`."""

QUESTIONS = {"hinted": " Question: What is {name} doing?", "bare": " What is {name} doing?"}
ENDINGS = {"hinted": " Answer:", "bare": ""}
"""The two formats: with and without the words that announce question and answer."""


@dataclass(frozen=True)
class Story:
    """Sentences and a question.

    Attributes:
        people: Name and activity of each sentence, in order.
        asked: Index of the sentence that the question is about.
    """

    people: tuple[tuple[str, str], ...]
    asked: int

    @property
    def name(self) -> str:
        """Name of the person that the question is about."""
        return self.people[self.asked][0]

    @property
    def activity(self) -> str:
        """Activity of the person that the question is about."""
        return self.people[self.asked][1]


def draw_story(rng: random.Random, names: Sequence[str], activities: Sequence[str], distractors: int, asked: int) -> Story:
    """Draw a story with distinct names and activities, and the informative sentence at a given position."""
    people = zip(rng.sample(names, distractors + 1), rng.sample(activities, distractors + 1), strict=True)
    return Story(tuple(people), asked)


def write_story(text: str, story: Story, form: str, answer: str | None) -> tuple[str, dict]:
    """Append a story, its question and optionally an answer to a text.

    Returns:
        The longer text, and [start, end) character spans in it: ``activities`` (of each sentence), ``answer`` (empty if there
        is none), ``ending`` (the last words before the answer) and ``whole`` (sentences, question and ending).
    """
    start = len(text)
    spans: dict[str, list] = {"activities": []}
    for number, (name, activity) in enumerate(story.people):
        text += f"{' ' if number else ''}{name} is "
        at = len(text)
        text += activity
        spans["activities"].append([at, len(text)])
        text += "."
    asked = len(text) + 1
    text += QUESTIONS[form].format(name=story.name)
    spans["ending"] = [len(text) + 1, len(text) + len(ENDINGS[form])] if ENDINGS[form] else [asked, len(text)]
    text += ENDINGS[form]
    spans["whole"] = [start, len(text)]
    at = len(text)
    if answer is not None:
        text += f" {answer}"
    spans["answer"] = [at, len(text)]
    if answer is not None:
        text += ".\n"
    return text, spans


def build(settings: Reading, seed: int) -> pd.DataFrame:
    """Build the prompts of each condition.

    Args:
        settings: Numbers of distractors and of examples, number of queries, and format.
        seed: Seed of all random draws.

    Returns:
        A paired_prompts table. Its column ``components`` contains name and activity, ``group`` both in one string,
        ``competing`` the activities of the distractors, ``position`` the position of the informative sentence,
        ``relevant_spans`` its activity, ``irrelevant_spans`` the activities of the distractors, and ``context_spans`` the
        answers of the examples.
    """
    rng = random.Random(f"{TASK} {seed}")
    most = max(settings.examples)
    rows: list[dict] = []
    query = 0
    for distractors in settings.distractors:
        pairs = list(product(NAMES, ACTIVITIES))
        rng.shuffle(pairs)
        for number, (name, activity) in enumerate(pairs[: settings.queries]):
            asked = number % (distractors + 1)  # each position equally often
            names = rng.sample([n for n in NAMES if n != name], distractors)
            activities = rng.sample([a for a in ACTIVITIES if a != activity], distractors)
            people = list(zip(names, activities, strict=True))
            people.insert(asked, (name, activity))
            story = Story(tuple(people), asked)
            # Positions in examples are balanced too, so that examples do not reveal the position of the answer.
            examples = [
                draw_story(rng, EXAMPLE_NAMES, EXAMPLE_ACTIVITIES, distractors, (number + i) % (distractors + 1))
                for i in range(most)
            ]
            foreign = [
                rng.choice([a for a in EXAMPLE_ACTIVITIES if a not in {other for _, other in example.people}])
                for example in examples
            ]
            for k, control in settings.conditions():
                text, context = "", []
                for example, wrong in zip(examples[:k], foreign[:k], strict=True):
                    text, spans = write_story(text, example, settings.format, wrong if control else example.activity)
                    context.append(spans["answer"])
                text, spans = write_story(text, story, settings.format, None)
                others = [span for place, span in enumerate(spans["activities"]) if place != asked]
                rows.append(
                    {
                        "task": TASK,
                        "set": SET,
                        "seed": seed,
                        "prompt_id": len(rows),
                        "query_id": query,
                        "examples": k,
                        "control": control,
                        "distractors": distractors,
                        "text": text,
                        "truth": activity,
                        "candidates": [f" {each}." for each in ACTIVITIES],
                        "truth_candidate": ACTIVITIES.index(activity),
                        "components": [name, activity],
                        "group": f"{name} is {activity}",
                        "competing": activities,
                        "position": asked,
                        "place": 0.0,
                        "query_span": spans["whole"],
                        "relevant_spans": [spans["activities"][asked]],
                        "irrelevant_spans": others,
                        "context_spans": context,
                        "ending_span": spans["ending"],
                    }
                )
            query += 1
    return pd.DataFrame(rows)

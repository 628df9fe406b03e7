"""Who is doing what: the reading task of the study of representation change, with and without solved examples.

After Yousefi et al. (arXiv 2310.00313): simple sentences of a name and an activity, one of them informative, the others
distractors, and a question about one name,

    Grace is feeding the cat. Hannah is reading a book. Question: What is Hannah doing? Answer:

Names and activities of the grid stand in queries only; solved examples have names and activities of their own. A query is
written once in every condition: alone, behind k solved examples with as many distractors, and behind the same examples with
answers that stand nowhere in them (of equal length). The rows of one query share their query_id.
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
"""The grid of the queries: three words each, no content word twice."""

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
"""What solved examples are made of."""

QUESTIONS = {"hinted": " Question: What is {name} doing?", "bare": " What is {name} doing?"}
ENDINGS = {"hinted": " Answer:", "bare": ""}
"""The two formats: with and without the words that announce question and answer."""


@dataclass(frozen=True)
class Story:
    """Sentences and a question.

    Attributes:
        people: Name and activity of each sentence, in their order.
        asked: Which of them is asked about.
    """

    people: tuple[tuple[str, str], ...]
    asked: int

    @property
    def name(self) -> str:
        """Who is asked about."""
        return self.people[self.asked][0]

    @property
    def activity(self) -> str:
        """What they are doing."""
        return self.people[self.asked][1]


def draw_story(rng: random.Random, names: Sequence[str], activities: Sequence[str], distractors: int, asked: int) -> Story:
    """A story with different names and activities, the informative sentence at a given place."""
    people = zip(rng.sample(names, distractors + 1), rng.sample(activities, distractors + 1), strict=True)
    return Story(tuple(people), asked)


def write_story(text: str, story: Story, form: str, answer: str | None) -> tuple[str, dict]:
    """A story, its question and perhaps an answer, behind what is written already.

    Returns:
        The longer text and, as [start, end) characters of it, ``activities`` (of each sentence), ``answer`` (empty where there
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
    """The prompts of every condition.

    Args:
        settings: How many distractors and examples, how many queries, and the format.
        seed: Of all draws.

    Returns:
        A paired_prompts table. Its column ``components`` holds name and activity, ``group`` both, ``competing`` the
        distractors' activities, ``position`` the place of the informative sentence, ``relevant_spans`` its activity,
        ``irrelevant_spans`` those of the distractors, ``context_spans`` the answers of the examples.
    """
    rng = random.Random(f"{TASK} {seed}")
    most = max(settings.examples)
    rows: list[dict] = []
    query = 0
    for distractors in settings.distractors:
        pairs = list(product(NAMES, ACTIVITIES))
        rng.shuffle(pairs)
        for number, (name, activity) in enumerate(pairs[: settings.queries]):
            asked = number % (distractors + 1)  # every place equally often
            names = rng.sample([n for n in NAMES if n != name], distractors)
            activities = rng.sample([a for a in ACTIVITIES if a != activity], distractors)
            people = list(zip(names, activities, strict=True))
            people.insert(asked, (name, activity))
            story = Story(tuple(people), asked)
            # Their places are balanced, too: a model must not learn from them where the answer stands.
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

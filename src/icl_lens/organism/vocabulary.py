"""The words that the tokenizer encodes as one token each: label words, template pieces and made-up topics."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from icl_lens.tasks.task import TASKS

_POOL = """
    Apple Anchor Arrow Autumn Badge Bamboo Banner Barrel Basil Beacon Bishop Blanket Blossom Border Bottle Branch
    Bridge Bronze Bucket Butter Cabin Cactus Camel Candle Canyon Carbon Carpet Castle Cedar Chain Chalk Cherry Circle
    Clay Clock Cloud Clover Cobalt Coffee Comet Copper Coral Corner Cotton Cradle Crane Crater Crown Crystal Curtain
    Daisy Delta Desert Diamond Dragon Drum Eagle Echo Elbow Ember Emerald Engine Falcon Feather Fence Fiddle Flame
    Flint Flute Forest Fossil Fountain Fox Garden Garlic Ginger Glacier Glove Granite Grape Gravel Guitar Hammer
    Harbor Harp Hazel Helmet Heron Hollow Honey Horizon Indigo Island Ivory Jacket Jasmine Jewel Jungle Kettle Kitten
    Ladder Lagoon Lantern Laurel Lemon Lily Linen Lion Lotus Magnet Mango Maple Marble Meadow Melon Meteor Mirror
    Mitten Monsoon Mosaic Moss Mountain Needle Nest Nickel Nutmeg Oak Oasis Ocean Olive Onyx Opal Orange Orchid Otter
    Oyster Paddle Palace Panther Paper Parrot Pebble Pepper Pillow Pine Planet Plum Pocket Pond Poppy Prairie Prism
    Pumpkin Quartz Quill Rabbit Raven Ribbon River Robin Rocket Rose Ruby Saddle Saffron Sail Salmon Sandal Sapphire
    Satin Scarlet Shadow Shell Silver Spider Spruce Squirrel Stone Storm Summit Sunset Swan Tango Temple Thistle
    Thunder Tiger Timber Topaz Torch Tower Trumpet Tulip Tunnel Turtle Valley Velvet Violet Violin Walnut Water Willow
    Window Winter Wolf Yarn Zebra Zephyr
""".split()

TASK_LABEL_WORDS: tuple[str, ...] = tuple(dict.fromkeys(word for task in TASKS.values() for word in task.label_words))
"""The label words of the four tasks, each with a leading space."""

LABEL_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys([*TASK_LABEL_WORDS, *(f" {letter}" for letter in "ABCDEFGH"), *(f" {word}" for word in _POOL)])
)
"""The pool from which the label words of an episode are drawn, each with a leading space.

The tasks' own label words are drawn like all others, so that their meaning is not linked to a class.
"""

_ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "kr", "pl", "st", "tr"]
_NUCLEI = ["a", "e", "i", "o", "u", "ai", "eo"]
_CODAS = ["", "", "", "n", "l", "r", "k", "s"]


def made_up_topics(topics: int, words: int, seed: int, avoid: frozenset[str] = frozenset()) -> list[list[str]]:
    """Generate topics that belong to no corpus.

    The words of a topic share nothing except that they occur together, so a model can learn a topic only from usage.

    Args:
        topics: Number of topics.
        words: Number of words per topic.
        seed: Random seed.
        avoid: Words that must not be generated.

    Returns:
        One list of words per topic. All words are distinct.
    """
    rng = random.Random(seed)
    seen = set(avoid)
    made: list[str] = []
    while len(made) < topics * words:
        word = "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(rng.choice((2, 2, 3))))
        if word not in seen:
            seen.add(word)
            made.append(word)
    return [made[i * words : (i + 1) * words] for i in range(topics)]


class Pieces(NamedTuple):
    """A template, as the strings around the text and the label."""

    prefix: str
    middle: str
    separator: str


def task_templates() -> list[Pieces]:
    """Return the template of each task, in order. Demonstrations are separated by a newline, as in the paper."""
    pieces = []
    for task in TASKS.values():
        match = re.fullmatch(r"(.*)\{text\}(.*)\{label\}", task.template, flags=re.DOTALL)
        if match is None:
            raise ValueError(f"the template of task {task.name!r} must end with {{label}}, got {task.template!r}")
        # The space before the text belongs to the first word of the text, as in the tokenizer.
        pieces.append(Pieces(match.group(1).removesuffix(" "), match.group(2), "\n"))
    return pieces


_PREFIXES = """
    Text Input Item Note Line Case Sample Example Entry Record Passage Message Post Comment Sentence Statement
""".split()
_NAMES = "Label Output Class Topic Kind Group Category Target Tag Type Result Verdict".split()
_PREFIX_ENDS = (":", " -", " =", " >", ".", ")")
_MIDDLE_ENDS = (":", " =", " ->", " is", " >", " =>", " |", " -", "?")
_BARE_MIDDLES = (" =", " ->", " =>", " |")
_SEPARATORS = ("\n", " ;", " .", " /", "\n-", " #")


def made_up_templates(number: int, seed: int) -> list[Pieces]:
    """Generate distinct templates that no task has, with and without a prefix, a name for the label and a separator.

    The strings around texts and labels differ between templates, so that no mark reliably follows or precedes a label. A model
    has to infer the role of a mark from the prompt.

    Args:
        number: Number of templates.
        seed: Random seed.
    """
    rng = random.Random(seed)
    seen = set(task_templates())
    made: list[Pieces] = []
    while len(made) < number:
        prefix = "" if rng.random() < 0.4 else rng.choice(_PREFIXES) + rng.choice(_PREFIX_ENDS)
        named = rng.choice(("\n", " ")) + rng.choice(_NAMES) + rng.choice(_MIDDLE_ENDS)
        middle = rng.choice(_BARE_MIDDLES) if rng.random() < 0.25 else named
        separator = "" if rng.random() < 0.3 else rng.choice(_SEPARATORS)
        if not prefix.startswith(" ") and prefix and not separator.startswith("\n"):
            prefix = " " + prefix
        pieces = Pieces(prefix, middle, separator)
        if pieces not in seen:
            seen.add(pieces)
            made.append(pieces)
    return made

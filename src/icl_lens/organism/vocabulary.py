"""The words the model must know as one token each: label words, template pieces, made-up topics."""

from __future__ import annotations

import random
import re

from icl_lens.tasks import TASKS

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
"""The label words of the four tasks, each with its leading blank."""

LABEL_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys([*TASK_LABEL_WORDS, *(f" {letter}" for letter in "ABCDEFGH"), *(f" {word}" for word in _POOL)])
)
"""The pool that the labels of an episode are drawn from, each with its leading blank.

The tasks' own label words take part like any other, so that their meaning is never tied to a class.
"""

_ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "kr", "pl", "st", "tr"]
_NUCLEI = ["a", "e", "i", "o", "u", "ai", "eo"]
_CODAS = ["", "", "", "n", "l", "r", "k", "s"]


def made_up_topics(topics: int, words: int, seed: int, avoid: frozenset[str] = frozenset()) -> list[list[str]]:
    """Topics that belong to no corpus: ``topics`` lists of ``words`` distinct made-up words, none of them in ``avoid``.

    Two words of one topic have nothing in common but their company, so a topic can only be learned from usage.
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


def template_pieces() -> list[tuple[str, str]]:
    """For each task in turn, the template's text before ``{text}`` and the text between ``{text}`` and ``{label}``."""
    pieces = []
    for task in TASKS.values():
        match = re.fullmatch(r"(.*)\{text\}(.*)\{label\}", task.template, flags=re.DOTALL)
        if match is None:
            raise ValueError(f"the template of {task.name!r} does not end with its label: {task.template!r}")
        # The blank before the text belongs to the text's first word, as in the tokenizer.
        pieces.append((match.group(1).removesuffix(" "), match.group(2)))
    return pieces

"""Questions of six classes in the surface style of TREC: capitalised, with a space before the question mark.

The words of :data:`LEXICONS` indicate the class: nouns for a type of answer, and adjectives that fit these nouns. All six
classes share most frames ("What northern river was mentioned ...", "What annual salary was mentioned ..."), so neither "what"
nor the length reveals the class. A few frames belong to a single class ("Who ...", "How many ...").
"""

from __future__ import annotations

from .grammar import Rules, words
from .names import CITIES, NATIONS, SURNAMES

# The class is rare, so its lexicons are small: each word must still occur several times.
_ABBREVIATION = {
    "kind": words("acronym initialism shorthand contraction initials"),
    "quality": words("shortened condensed truncated spelled"),
    "code": words("NASA CPU DNA FBI NATO ATM RAM HTML GDP UFO OPEC DVD"),
}
_ENTITY = {
    "living": words("""
        animal bird fish insect plant tree dog cat horse snake spider whale mammal reptile dinosaur breed organism
        flower herb vegetable
        """),
    "living_quality": words("endangered poisonous carnivorous aquatic striped spotted furry venomous"),
    "meal": words("""
        food fruit dish dessert drink beverage wine beer cheese spice cereal candy sauce soup bread liquid medicine
        vitamin tea
        """),
    "meal_quality": words("edible sweet bitter frozen organic herbal crunchy spicy"),
    "object": words("""
        color metal mineral gemstone chemical element gas drug instrument game toy weapon vehicle engine machine tool
        device fabric garment substance material fuel soap brand fossil perfume jewel
        """),
    "object_quality": words("wooden metallic plastic electric woven synthetic flammable purple shiny portable"),
    "abstract": words("language religion dance holiday disease virus organ muscle bone planet"),
    "abstract_quality": words("tribal contagious inherited distant"),
}
_DESCRIPTION = {
    "kind": words("""
        reason meaning origin cause definition difference purpose process explanation function effect consequence
        significance role theory principle method technique procedure mechanism motive motivation justification
        rationale logic concept notion doctrine moral interpretation implication benefit advantage disadvantage problem
        solution impact influence outcome characteristic nature essence composition evolution custom belief superstition
        controversy argument criticism distinction contrast similarity relationship connection goal strategy
        misconception mistake lesson
        """),
    "quality": words("""
        scientific philosophical underlying literal symbolic basic essential fundamental practical theoretical cultural
        ethical logical technical figurative intended plausible obvious psychological spiritual biological legal
        rational social
        """),
}
_PERSON = {
    "kind": words("""
        president inventor author singer actor king queen emperor general admiral captain pilot astronaut scientist
        chemist physicist painter poet playwright composer pianist dancer novelist journalist senator governor mayor
        lawyer judge explorer sailor pirate outlaw gangster detective spy philosopher prophet bishop pope monk saint
        teacher professor coach athlete boxer golfer quarterback comedian actress architect sculptor banker billionaire
        surgeon nurse prince princess duke widow daughter husband
        """),
    "quality": words("""
        retired elected exiled married orphaned bearded beloved talented wealthy blind crowned teenage ambitious heroic
        legendary notorious assassinated imprisoned brave eccentric stubborn generous
        """),
}
_LOCATION = {
    "kind": words("""
        city country river mountain capital island lake desert town village state province county continent peninsula
        valley canyon volcano harbor port bay gulf ocean sea strait coast beach region district street avenue boulevard
        airport stadium hotel castle temple cathedral park waterfall glacier swamp forest jungle plateau cape
        canal reef lagoon suburb neighborhood territory republic nation colony hill cave cliff delta oasis prairie
        meadow
        """),
    "quality": words("""
        coastal northern southern eastern western inland tropical mountainous landlocked nearby alpine arctic overseas
        urban rural sandy snowy uninhabited swampy equatorial forested populous offshore
        """),
}
_NUMBER = {
    "money": words("salary price cost budget income tax wage rent fee fare debt fine"),
    "money_unit": words("dollars cents euros  yen"),
    "size": words("height length width depth distance diameter radius circumference altitude thickness"),
    "size_unit": words("miles feet inches meters yards"),
    "mass": words("weight mass load volume quantity amount capacity"),
    "mass_unit": words("pounds tons gallons  grams"),
    "time": words("age duration lifespan frequency interval"),
    "time_unit": words("hours minutes seconds weeks"),
    "plain": words("""
        population temperature speed percentage rate ratio fraction probability attendance enrollment sum voltage
        density wavelength mileage birthday anniversary deadline
        """),
    "quality": words("""
        average total annual maximum minimum monthly daily weekly hourly exact approximate estimated combined median
        yearly net gross cumulative nightly numerical precise
        """),
}

# Combinations of the lexicons of a class, for classes in which some adjectives do not fit some nouns.
_PHRASES: dict[int, Rules] = {
    1: {
        "kind": ("{living}", "{meal}", "{object}", "{object}", "{abstract}"),
        "quality": ("{living_quality}", "{meal_quality}", "{object_quality}"),
        "asked": (
            "{living_quality} {living}",
            "{meal_quality} {meal}",
            "{object_quality} {object}",
            "{object_quality} {object}",
            "{abstract_quality} {abstract}",
        ),
    },
    5: {"kind": ("{money}", "{size}", "{mass}", "{time}", "{plain}", "{plain}", "{plain}", "{plain}")},
}

LEXICONS = (_ABBREVIATION, _ENTITY, _DESCRIPTION, _PERSON, _LOCATION, _NUMBER)

_NEUTRAL: Rules = {
    "city": CITIES,
    "name": SURNAMES,
    "nation": NATIONS,
    "verb": words("""
        mention describe discuss examine ignore praise admire mock celebrate recall study avoid consider defend promote
        follow dismiss recommend honor observe cite prefer criticize welcome notice select
        """),
    "past": words("""
        mentioned described discussed examined ignored praised admired mocked celebrated recalled studied avoided
        considered defended promoted followed dismissed recommended honored observed cited preferred criticized welcomed
        noticed selected
        """),
    "old": words("""
        old ancient modern famous popular early late first second last recent original royal secret public private
        ordinary strange curious little large great new foreign local national international common rare unfinished
        """),
    "work": words("""
        novel poem movie song ballet painting magazine newspaper opera play show book letter map diary speech lecture
        chapter cartoon comic series manuscript textbook documentary interview report journal album catalog memoir guide
        essay
        """),
    "body": words("""
        empire dynasty kingdom church army navy company club team orchestra school library museum hospital factory farm
        circus council court bank parliament railroad theater university tribe
        """),
    "event": words("""
        war revolution expedition festival voyage trial election parade harvest wedding ceremony coronation tournament
        contest exhibition concert strike flood fire storm earthquake march siege battle rebellion crisis scandal
        conference meeting race debate auction raid reign
        """),
    "crowd": words("""
        scholars students tourists farmers soldiers readers children historians doctors sailors reporters visitors
        experts fans critics workers
        """),
    "year": words("1776 1812 1848 1865 1889 1903 1914 1929 1936 1945 1953 1960 1969 1974 1986 1991"),
    "desc": ("{old}", "{nation}"),
    "what": ("the {desc} {work}", "the {work} of {name}", "the {work} from {city}", "the {desc} {work} from {city}"),
    "group": ("the {desc} {body}", "the {body} of {name}", "the {body} in {city}", "the {desc} {body} in {city}"),
    "when": (
        "during the {event}",
        "after the {event} in {city}",
        "before the {desc} {event}",
        "in {year}",
        "since the {event} of {year}",
        "during the {desc} {event}",
        "",
    ),
}

_SHARED_FRAMES = (
    "What {asked} is {past} in {what} {when} ?",
    "Which {kind} or {kind} did {group} {verb} {when} ?",
    "Name the {asked} {past} by {name} {when} ?",
    "What was the {asked} that {name} {past} in {what} ?",
    "Do you know the {asked} behind {what} {when} ?",
    "In {year} , what {asked} did {name} {verb} {when} ?",
    "What {kind} does {name} compare with the {asked} in {what} ?",
    "What do {crowd} call the {asked} in {what} ?",
    "According to {what} , which {kind} is more {quality} {when} ?",
    "Which {asked} made {crowd} {verb} {group} {when} ?",
    "What is the {kind} that {crowd} {past} as {quality} {when} ?",
    "Tell me which {asked} {crowd} {verb} in {what} ?",
    "Of {group} and {what} , which one had the {asked} ?",
    "What {kind} is it when {crowd} {verb} a {asked} in {city} ?",
    "For {group} , what was the most {asked} {when} ?",
    "Can you name the {kind} which {name} and {name} {past} , {quality} or not ?",
    "How is the {asked} of {group} {past} {when} ?",
    "Whose {work} has the {asked} that {crowd} {verb} ?",
    "What {old} {kind} did the {nation} {crowd} {verb} , besides the {asked} ?",
    "What {kind} , {quality} and {old} , did {name} {verb} {when} ?",
    "Which {crowd} {past} the {asked} in {what} ?",
    "Is there a {asked} that the {nation} {crowd} {verb} during the {event} ?",
)
# Frames that only one class uses, one tuple per class. At least a quarter of the texts of each class use them.
_CLASS_FRAMES = (
    (
        "What does the {kind} {code} stand for in {what} {when} ?",
        "What is {code} , the {asked} {past} in {what} ?",
        "What do the {kind} {code} mean to {crowd} {when} ?",
        "What is the {asked} of {code} in {what} ?",
        "When {crowd} {verb} the {quality} {code} , what is it short for ?",
        "Which {kind} , {code} or {code} , did {name} {verb} in {city} ?",
    ),
    (
        "What kind of {asked} did the {desc} {crowd} {verb} {when} ?",
        "What sort of {kind} , {quality} or not , did {group} {verb} ?",
        "What {asked} do {crowd} {verb} with a {kind} {when} ?",
    ),
    (
        "Why did {crowd} {verb} the {asked} of {what} ?",
        "How does {name} describe the {asked} of {what} {when} ?",
        "Why is the {kind} of {what} so {quality} to {crowd} ?",
    ),
    (
        "Who was the {asked} that {past} {what} {when} ?",
        "Who {past} {what} , the {asked} or the {kind} ?",
        "Who is the {kind} whom {crowd} {past} as {quality} {when} ?",
    ),
    (
        "Where is the {asked} that {name} {past} {when} ?",
        "Where in the {asked} was {what} {past} {when} ?",
        "Where did {crowd} {verb} {what} , at the {asked} ?",
    ),
    (
        "How many {money_unit} is the {quality} {money} of {group} {when} ?",
        "How many {size_unit} is the {quality} {size} of {group} {when} ?",
        "How many {mass_unit} is the {quality} {mass} of {group} {when} ?",
        "How many {time_unit} is the {quality} {time} of {group} {when} ?",
        "What was the {quality} {money} in {money_unit} of {group} {when} ?",
        "What was the {size} in {size_unit} of {group} {when} ?",
        "What {quality} {mass} in {mass_unit} did {crowd} {verb} {when} ?",
        "Which {event} had the {quality} {time} in {time_unit} , according to {name} ?",
    ),
)
# Only the class-specific frames of abbreviations and numbers use the codes and units, so these frames have more weight.
_MIXES = {0: ("{shared}", "{own}", "{own}"), 5: ("{shared}", "{own}")}


def rules(label: int) -> Rules:
    """Return the grammar of one class (0 abbreviation ... 5 number); its start symbol is ``text``."""
    return {
        **_NEUTRAL,
        "asked": ("{quality} {kind}",),
        **LEXICONS[label],
        **_PHRASES.get(label, {}),
        "shared": _SHARED_FRAMES,
        "own": _CLASS_FRAMES[label],
        "text": _MIXES.get(label, ("{shared}", "{shared}", "{shared}", "{own}")),
    }


def finish(text: str) -> str:
    """Return the text unchanged, because the grammar already generates the style of TREC."""
    return text

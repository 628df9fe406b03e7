"""Positive and negative film reviews in the surface style of SST-2: lower case, with spaces around punctuation.

Only the words of :data:`LEXICONS` indicate the class. Both classes share the frames and all other words.
"""

from __future__ import annotations

from .grammar import Rules, words

_NEGATIVE = {
    "adj": words("""
        dull clumsy tedious lifeless shallow bland boring dreary silly stale predictable awkward annoying pointless
        messy lazy hollow soggy plodding incoherent forgettable tiresome unfunny wooden flat contrived pretentious
        muddled painful ugly sloppy witless dismal ludicrous overlong murky stupid ridiculous mediocre sluggish
        irritating empty feeble joyless inept hackneyed charmless ponderous tasteless unbearable laughable amateurish
        grating pathetic
        """),
    "noun": words("""
        mess bore disaster misfire failure chore dud disappointment flop embarrassment ordeal slog wreck turkey blunder
        mistake nightmare fiasco letdown headache
        """),
    "adv": words("""
        badly poorly clumsily painfully awkwardly carelessly miserably lazily hopelessly tediously sloppily crudely
        cheaply stiffly foolishly needlessly terribly dreadfully
        """),
    "verb": words("""
        bores annoys irritates insults disappoints exhausts frustrates offends punishes tires alienates baffles drains
        confuses numbs embarrasses repels depresses disgusts
        """),
}
_POSITIVE = {
    "adj": words("""
        brilliant charming witty touching delightful gripping moving graceful clever gorgeous warm heartfelt dazzling
        inventive engaging hilarious tender thrilling superb lovely elegant captivating absorbing poignant joyous fresh
        memorable luminous radiant exhilarating wonderful magnificent sparkling soulful irresistible uplifting
        masterful stirring splendid vibrant playful humane assured refreshing insightful rewarding magical exquisite
        enchanting flawless terrific breathtaking amazing excellent
        """),
    "noun": words("""
        triumph delight gem treasure masterpiece joy pleasure wonder marvel winner feast treat knockout charmer blast
        miracle jewel revelation success celebration
        """),
    "adv": words("""
        beautifully brilliantly gracefully wonderfully skillfully superbly delightfully perfectly elegantly cleverly
        tenderly deftly vividly expertly lovingly wisely smoothly richly
        """),
    "verb": words("""
        delights dazzles charms enchants rewards thrills inspires amuses captivates entertains impresses uplifts
        enthralls astonishes seduces fascinates satisfies excites warms
        """),
}

LEXICONS = (_NEGATIVE, _POSITIVE)

_NEUTRAL: Rules = {
    "craft": words("""
        photography editing acting humor lighting narration animation choreography design scenery music sound direction
        staging banter chemistry action camerawork framing makeup wardrobe casting pacing structure tone suspense
        slapstick costuming
        """),
    "turn": words("""
        script score soundtrack ending opening plot screenplay premise setting cast ensemble finale prologue subplot
        climax romance montage flashback storyline title trailer theme hero heroine villain lead sidekick concept scene
        chase
        """),
    "part": ("the {craft}", "the {turn}"),
    "genre": words("""
        film movie picture comedy drama thriller western musical documentary biopic sequel remake adaptation fable
        satire farce cartoon melodrama mystery adventure fantasy portrait tale yarn debut feature parody spectacle caper
        whodunit epic prequel trilogy saga story effort
        """),
    "people": words("""
        soldiers teachers sisters brothers farmers lawyers thieves dancers doctors nurses sailors students widows
        orphans neighbors strangers lovers cousins gangsters detectives cowboys pirates monks spies musicians boxers
        painters poets cooks pilots miners hunters immigrants teenagers parents twins daughters sons veterans reporters
        waiters bankers priests prisoners tourists travelers robots vampires ghosts kings
        """),
    "spot": words("""
        village harbor prison hospital suburb desert castle school hotel casino farm factory forest jungle market
        station ranch circus theater kitchen office courtroom university ship submarine trailer mansion cabin mall
        arena town valley monastery garage bakery garden museum tunnel airport diner
        """),
    "nadj": words("""
        french british american italian russian japanese korean german spanish swedish young old long short small big
        modern early recent rural urban southern northern foreign local teenage historical political military religious
        suburban medieval postwar animated live independent black white little
        """),
    "emph": words("""
        often mostly always frequently somehow nearly almost quite rather truly utterly simply finally ultimately
        consistently surprisingly thoroughly entirely repeatedly clearly certainly plainly
        """),
    "aud": words("""
        viewers audiences fans critics adults children families everyone moviegoers newcomers crowds anyone kids
        grownups skeptics spectators patrons couples listeners readers
        """),
    "maker": words("""
        director writer studio producer actor actress star composer editor filmmaker screenwriter novelist animator
        narrator crew newcomer veteran designer
        """),
    "done": words("""
        written shot staged directed edited acted filmed played handled designed paced assembled crafted told drawn cut
        performed arranged
        """),
    "makes": words("offers gives makes brings builds tells shoots presents directs delivers creates finds"),
    "place": ("in a {spot}", "at the {spot}", "in a {nadj} {spot}", "near a {spot}", "inside a {nadj} {spot}"),
    "who": ("{people}", "{nadj} {people}", "{people} and {people}", "{nadj} {people} {place}", "{people} {place}"),
    "after": ("", "for {aud}", "in every {turn}", "despite the {nadj} {spot}", "with {nadj} {people}"),
}

_FRAMES = (
    "a {adj} , {adj} {genre} about {who} {place} .",
    "a {adj} {genre} about {who} , with {adj} {craft} and {craft} .",
    "{part} is {adj} , {part} {adv} {done} and {part} {adj} .",
    "this {nadj} {genre} about {people} {verb} {aud} with {adj} {craft} and {adj} {craft} .",
    "{adv} {done} and {emph} {adj} , the {genre} about {people} {verb} {aud} .",
    "a {noun} of a {genre} : {adj} {craft} , {adj} {craft} and {nadj} {people} .",
    "the {maker} {makes} a {adj} {genre} about {people} , and {part} {verb} {aud} .",
    "as a {genre} about {who} {place} , it is {emph} {adj} and {adv} {done} .",
    "{craft} and {craft} make the {nadj} {genre} a {adj} {noun} for {aud} .",
    "it {verb} {aud} : {part} is {adj} and {part} {emph} {adj} .",
    "from the {adj} {turn} to the {turn} , this {genre} about {people} is a {noun} .",
    "even {part} , {adv} {done} by the {maker} , {verb} {aud} {place} .",
    "every {turn} in this {nadj} {genre} is {adj} , and the {people} are {adj} .",
    "the {people} are {adj} , the {spot} looks {adj} and {part} {verb} {aud} .",
    "{aud} will find the {genre} {adj} , its {craft} {adj} and its {turn} {adv} {done} .",
    "rarely has a {genre} about {who} been so {adj} , so {adj} or so {adv} {done} .",
    "what a {adj} {noun} : a {nadj} {genre} {place} with {people} and {adj} {craft} .",
    "a {noun} for {aud} , thanks to {adj} {craft} and a {emph} {adj} {maker} .",
    "i cannot think of a more {adj} {turn} or a more {adj} {genre} about {who} .",
    "the {maker} and the {maker} have made a {adj} {noun} out of {who} .",
    "by the {turn} , the {nadj} {people} seem {adj} and the {genre} {emph} {adj} .",
    "a {nadj} {genre} whose {craft} is {adj} and whose {maker} {verb} {aud} .",
    "one {adj} {turn} after another , and a {noun} for the {nadj} {maker} {place} .",
    "with its {people} and its {craft} , the {genre} is {emph} {adj} and {verb} {aud} .",
    "a {genre} {place} , {adv} {done} , {adj} and {emph} a {noun} {after} .",
    "the {maker} has {adv} {done} the {turn} , and the {nadj} {genre} is {adj} {after} .",
    "there is a {adj} {turn} {place} , but mainly the {genre} is a {noun} {after} .",
    "if you like {people} , this {emph} {adj} {genre} {place} is a {noun} .",
    "we follow {who} through a {adj} {turn} and a {adv} {done} {turn} .",
    "watching these {people} {place} is {adj} , and {part} {emph} {verb} {aud} .",
)


def rules(label: int) -> Rules:
    """Return the grammar of one class (0 negative, 1 positive); its start symbol is ``text``."""
    return {**_NEUTRAL, **LEXICONS[label], "text": _FRAMES}


def finish(text: str) -> str:
    """Return the text unchanged, because the grammar already generates the style of SST-2."""
    return text

"""Three-turn chats with four emotions in the surface style of EmoContext: lower case, little punctuation, one line.

One speaker writes the first and third turns, and the emotion in the third turn is the label. The second turn is a neutral
reply. The words of :data:`LEXICONS` indicate the emotion. The first class (others) has no particular emotion; its words
describe everyday errands and states, and fit the same frames.
"""

from __future__ import annotations

from .grammar import Rules, attach_punctuation, words

# Words in "feel" describe the speaker; words in "view" describe a thing.
_OTHERS = {
    "feel": words("""
        busy ready available awake online unsure undecided curious flexible punctual hungry thirsty prepared organized
        occupied sleepy fine okay alright calm rested
        """),
    "view": words("""
        usual normal weekly optional nearby electric digital seasonal standard typical portable printed wooden
        waterproof adjustable refundable compatible
        """),
    "ing": words("""
        checking reading typing walking cooking studying cleaning packing commuting browsing shopping ironing gardening
        knitting printing scanning updating comparing measuring counting
        """),
    "noun": words("""
        weather timetable homework printer charger recipe groceries library password address ticket appointment receipt
        laundry forecast calendar parking breakfast umbrella dentist bicycle luggage elevator dictionary battery
        vitamins assignment syllabus spreadsheet discount delivery passport subway podcast
        """),
}
_HAPPY = {
    "feel": words("""
        thrilled glad delighted joyful excited cheerful ecstatic proud blessed grateful thankful lucky overjoyed merry
        jolly pleased giddy stoked elated jubilant
        """),
    "view": words("""
        amazing awesome wonderful fantastic fabulous lovely splendid brilliant superb terrific magical marvelous
        gorgeous delightful perfect charming
        """),
    "ing": words("""
        laughing dancing celebrating smiling cheering singing grinning giggling winning glowing hugging partying
        clapping beaming blushing rejoicing twirling toasting jumping
        """),
    "noun": words("""
        joy fun laughter hugs smiles celebration cheers fireworks balloons victory bliss sunshine gift kisses honeymoon
        prize jackpot applause miracle paradise blessing trophy cupcakes puppies rainbow confetti
        """),
}
_SAD = {
    "feel": words("""
        lonely heartbroken miserable depressed hopeless tearful hurt broken devastated sorrowful worthless helpless
        unloved abandoned homesick mournful dejected crushed unwanted melancholy
        """),
    "view": words("""
        gloomy tragic heartbreaking depressing painful bleak grim dreary empty hollow joyless unbearable
        lost sorry pitiful doomed
        """),
    "ing": words("""
        crying weeping sobbing grieving mourning missing suffering aching sighing moping hurting regretting failing
        fading drowning wailing brooding whimpering
        """),
    "noun": words("""
        tears grief sorrow heartache pain loneliness misery regret funeral loss breakup despair emptiness goodbye
        divorce illness graveyard depression wound scars tragedy farewell coffin guilt gloom disappointment heartbreak
        """),
}
_ANGRY = {
    "feel": words("""
        furious mad annoyed irritated outraged livid enraged fuming disgusted insulted offended provoked resentful
        hostile bitter infuriated exasperated vengeful irate cranky
        """),
    "view": words("""
        rude stupid ridiculous useless pathetic selfish idiotic arrogant obnoxious disrespectful unfair infuriating
        dishonest shameless hateful vicious
        """),
    "ing": words("""
        yelling shouting cursing screaming swearing arguing fighting complaining slamming ranting punching growling
        kicking glaring protesting smashing hissing stomping
        """),
    "noun": words("""
        jerk idiot liar moron fool rage hate fury nonsense rubbish garbage insults excuses betrayal revenge lies
        attitude loser scam cheater crap grudge threat thief hypocrite traitor tantrum
        """),
}

LEXICONS = (_OTHERS, _HAPPY, _SAD, _ANGRY)

_NEUTRAL: Rules = {
    "person": words("""
        sister brother boss teacher neighbor cousin roommate friend mom dad uncle aunt manager landlord coach doctor
        professor girlfriend boyfriend classmate grandma grandpa driver waiter nephew niece partner colleague
        """),
    "thing": words("""
        phone laptop car guitar picture letter message video song movie book jacket camera pizza coffee cake bag ring
        dress shoes watch photo story game dog cat fish bike hotel concert trip sofa lamp mirror blanket sweater shirt
        hat chair carpet pillow wallet necklace sandwich soup radio helmet kite magazine poster drawing house garden
        """),
    "did": words("""
        bought sold found moved mentioned noticed liked wanted forgot chose picked shared brought left needed ordered
        remembered suggested described borrowed saw painted photographed returned
        """),
    "day": words("""
        monday tuesday wednesday thursday friday saturday sunday today tonight again anyway afterwards
        """),
    "ago": words("yesterday lately twice today monday tuesday wednesday thursday friday saturday sunday"),
    "say": words("said told thinks knows says believes guesses heard swears claims"),
    "deg": words("really very quite pretty totally still kinda rather"),
    "hey": words("hey well hmm ok oh yeah listen btw honestly look guess anyways"),
    "verb": words("find move mention notice want forget choose pick share bring leave need order remember suggest borrow"),
    "city": words("london paris boston chicago delhi dubai texas rome mumbai tokyo canada india spain berlin"),
    "first": (
        "my {person} {did} the {thing} {ago}",
        "the {person} {did} a {thing} in {city}",
        "i {did} my {thing} {ago}",
        "{hey} , i {did} the {thing}",
        "{hey} my {person} {did} it {ago}",
        "we {did} that {thing} with my {person}",
        "the {person} who {did} the {thing} is here",
        "i was {feel} {ago}",
        "it is about the {noun} and my {person}",
        "my {person} and i are {ing} {day}",
        "u know the {thing} from {city}",
        "{day} my {person} will {verb} the {thing}",
        "my {thing} is {view}",
    ),
    "second": (
        "{hey} what did your {person} say ?",
        "{hey} , and the {thing} ?",
        "and the {thing} from {city} ?",
        "how come ? where is your {person}",
        "what about the {thing} ?",
        "did u {verb} it {ago} ?",
        "oh , which {thing} ?",
        "tell me more about your {person}",
        "i see , in {city} ?",
        "{hey} , my {person} {did} one too",
        "why , did the {person} {verb} it ?",
        "{hey} , does your {person} know ?",
        "who {did} it {ago} ?",
    ),
    "third": (
        "i am {deg} {feel} and {feel} {day}",
        "i keep {ing} , it is {deg} {view}",
        "the {noun} makes my {person} {deg} {feel} and me too",
        "i am {ing} about the {noun} with my {person}",
        "{deg} {view} , and now the {noun} in {city}",
        "just {ing} and {ing} {day} with my {person}",
        "it was the {noun} , i am {feel}",
        "i feel {deg} {feel} , {ing} about the {thing}",
        "no , {ing} over the {noun} {day}",
        "yes and now i am {ing} , {deg} {feel}",
        "because of the {noun} i am {ing} {day}",
        "{noun} , {noun} and me {ing} in {city}",
        "we are {deg} {feel} , the {thing} is {view}",
        "my {person} {say} i am {feel} , just {ing}",
        "it is the {view} {noun} again , so i am {feel}",
        "that {view} {thing} , i end up {ing}",
        "only the {noun} after the {view} {thing}",
        "{view} {thing} , {view} {person} and the {noun} {day}",
    ),
}

_FRAMES = ("{first} {second} {third}", "{first} {second} {third}", "{first} . {second} {third} .")


def rules(label: int) -> Rules:
    """Return the grammar of one class (0 others, 1 happy, 2 sad, 3 angry); its start symbol is ``text``."""
    return {**_NEUTRAL, **LEXICONS[label], "text": _FRAMES}


def finish(text: str) -> str:
    """Return the text with punctuation attached to the preceding word, as in chat messages."""
    return attach_punctuation(text)

"""News teasers of four sections in the surface style of AG News: one or two cased sentences, with attached punctuation.

The words of :data:`LEXICONS` indicate the section. All sections share the frames, the verbs and the proper names. Sentences
begin with a neutral word, so that each word of a section has a single spelling.
"""

from __future__ import annotations

from .grammar import Rules, attach_punctuation, words
from .names import CITIES, NATIONS, SURNAMES, VERBS, VERBS_PAST

_WORLD = {
    "who": words("""
        rebels troops diplomats ministers soldiers militants refugees protesters voters insurgents peacekeepers
        ambassadors lawmakers generals gunmen hostages envoys negotiators villagers guerrillas exiles warlords
        commanders bombers demonstrators dissidents clerics prisoners
        """),
    "thing": words("""
        ceasefire treaty election embassy border parliament sanctions war peace coup bombing siege militia regime
        province famine genocide asylum curfew ballot convoy referendum constitution occupation uprising violence
        massacre invasion missile airstrike truce tribunal sovereignty diplomacy insurgency presidency monarchy
        disarmament territory extradition terrorism independence checkpoint ambush hostage refugee warhead
        """),
    "mod": words("""
        foreign nuclear military presidential parliamentary diplomatic ethnic armed disputed occupied humanitarian
        tribal separatist wartime royal
        """),
}
_SPORTS = {
    "who": words("""
        strikers coaches goalkeepers quarterbacks pitchers batsmen sprinters golfers swimmers cyclists boxers wrestlers
        skaters defenders midfielders rookies champions referees rowers bowlers jockeys gymnasts linebackers catchers
        hitters teammates athletes outfielders
        """),
    "thing": words("""
        match goal league season playoffs championship medal trophy tournament innings touchdown semifinal overtime
        penalty stadium roster marathon relay doubles wicket homer quarterfinal rebound offense knockout derby cup
        bullpen lineup dugout scoreboard offside hurdles sprint rematch shutout pennant fixture golf tennis hockey
        basketball cricket rugby baseball soccer football skiing
        """),
    "mod": words("""
        unbeaten winless olympic amateur injured midfield defensive seeded sidelined undefeated athletic collegiate
        scoreless heavyweight preseason
        """),
}
_BUSINESS = {
    "who": words("""
        investors shareholders retailers lenders bankers brokers economists traders creditors airlines insurers
        automakers exporters borrowers bondholders accountants auditors manufacturers wholesalers steelmakers brewers
        grocers analysts employers consumers taxpayers importers buyers
        """),
    "thing": words("""
        profit merger earnings stock dividend revenue inflation takeover bankruptcy loan mortgage currency debt tariff
        export economy sales layoffs payroll bond buyout audit deficit fund growth recession acquisition oil prices
        crude commodity wages bonus pension franchise subsidiary stake equity forecast margins outlook shares turnover
        restructuring invoice cash credit interest
        """),
    "mod": words("""
        quarterly fiscal corporate financial commercial wholesale retail economic monetary profitable bankrupt
        industrial taxable costly pretax
        """),
}
_TECHNOLOGY = {
    "who": words("""
        programmers hackers developers astronomers gamers coders bloggers spammers physicists biologists technicians
        inventors webmasters engineers geneticists chemists researchers users designers astronauts mathematicians
        scientists testers podcasters roboticists cosmologists subscribers animators
        """),
    "thing": words("""
        software browser chip internet laptop server virus spyware broadband website email spam patch processor gadget
        handset telescope spacecraft orbit satellite robot database download password firewall encryption keyboard
        screen pixel console videogame desktop prototype genome laser microscope semiconductor upgrade code algorithm
        hardware modem router bandwidth asteroid comet galaxy probe
        """),
    "mod": words("""
        digital wireless online interactive portable robotic virtual optical automated electronic encrypted lunar
        molecular programmable scientific
        """),
}

LEXICONS = (_WORLD, _SPORTS, _BUSINESS, _TECHNOLOGY)

_NEUTRAL: Rules = {
    "city": CITIES,
    "name": SURNAMES,
    "nation": NATIONS,
    "verb": VERBS,
    "past": VERBS_PAST,
    # Verbs with people as object: "treat" for actions of people, "affect" and "affected" for effects of things.
    "treat": words("praise support ignore defend challenge follow welcome blame oppose embrace dismiss protect admire mock"),
    "affect": words("divide help unite surprise attract affect unsettle encourage reward please outlast expose"),
    "affected": words("divided helped united surprised attracted affected unsettled encouraged rewarded pleased exposed"),
    "day": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "some": words("Two Three Four Five Six Seven Many Several Some More Most Few"),
    "top": words("Top Former Young New Local Veteran Leading Key Major Senior Rival Big Early Late"),
    "old": words("""
        new latest secret early major key controversial long surprise final possible rare broad strict big local annual
        national recent record sudden joint public private historic bitter troubled famous
        """),
    "matter": words("""
        plan report decision warning debate move rule law change proposal offer deal demand dispute delay charge claim
        inquiry contract agreement pledge threat statement record schedule ban project campaign program
        policy scandal crisis talks split ruling effort comeback gamble
        """),
    "group": words("""
        officials leaders experts critics sources witnesses organizers supporters spokesmen families students reporters
        lawyers unions neighbors workers doctors residents
        """),
    "time": words("today tonight tomorrow again soon later overnight"),
    "how": words("sharply quickly quietly slowly again suddenly reluctantly openly strongly finally firmly briefly"),
    "where": ("in {city}", "near {city}", "in {city} on {day}", "on {day}"),
    "start": (
        "{nation} {who}",
        "{top} {who}",
        "{some} {who}",
        "{city} {who}",
        "{some} {mod} {who}",
        "{top} {nation} {who}",
    ),
    "issue": ("{thing}", "{mod} {thing}", "{old} {thing}", "{thing} {matter}", "{old} {thing} {matter}"),
    "quote": ("{name} said", "{group} said", "{nation} {group} said", "{group} said on {day}", "{name} told {group}"),
}

_FRAMES = (
    "{start} {verb} {issue} as {who} {verb} {matter} .",
    "{start} {verb} {issue} . {name} will {verb} the {thing} {where} .",
    "{start} {past} the {issue} {where} , {quote} .",
    "The {mod} {thing} could {affect} {who} {where} , {quote} .",
    "{name} says {issue} and {thing} will {affect} {nation} {who} .",
    "After the {issue} , {nation} {who} {how} {past} the {matter} {where} .",
    "{nation} {thing} {matter} : {who} {treat} {name} {where} .",
    "{city} {thing} : {who} {how} {verb} the {old} {matter} , {quote} .",
    "A {old} {matter} over {mod} {thing} has {how} {affected} {who} {where} .",
    "{some} {who} {verb} {old} {matter} over {issue} {where} .",
    "{name} and {name} {past} the {thing} that {who} {verb} {where} .",
    "{start} will {treat} {name} over {issue} {time} .",
    "Why {who} {verb} the {issue} : {name} and {group} {treat} {nation} {who} .",
    "The {who} who {past} {name} {how} {verb} {issue} .",
    "With {issue} {past} , {who} {verb} the {nation} {matter} {where} .",
    "{start} to {verb} {thing} {time} . The {old} {matter} was {past} {where} .",
    "No {thing} for {name} : {mod} {who} {verb} {old} {matter} {where} .",
    "{name} {how} {past} a {mod} {thing} {matter} from {who} {where} .",
    "{group_cap} {verb} {issue} while {nation} {who} {verb} {matter} {time} .",
    "{city} on {day} {past} its {old} {thing} , and {who} {verb} the {matter} .",
    "{day} {matter} : {who} {verb} {mod} {thing} and {treat} {name} .",
    "{start} , {affected} by {group} , {how} {verb} {issue} .",
    "It was the {old} {thing} that {affected} {nation} {who} {where} .",
)


def rules(label: int) -> Rules:
    """Return the grammar of one section (0 world, 1 sports, 2 business, 3 technology); its start symbol is ``text``."""
    group_cap = words("Officials Leaders Experts Critics Organizers Workers Residents Unions")
    return {**_NEUTRAL, **LEXICONS[label], "group_cap": group_cap, "text": _FRAMES}


def finish(text: str) -> str:
    """Return the text with punctuation attached to the preceding word, as in newspapers."""
    return attach_punctuation(text)

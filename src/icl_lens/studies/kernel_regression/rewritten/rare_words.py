"""Rare synonyms of common words, in the same sense and form: words that readers know but texts about films seldom use."""

from __future__ import annotations

_PAIRS = """
    dull:hebetudinous clumsy:maladroit tedious:prolix lifeless:exanimate shallow:jejune bland:insipid boring:soporific
    dreary:lugubrious silly:fatuous stale:fusty predictable:foreseeable awkward:gauche annoying:vexatious
    pointless:otiose messy:disheveled lazy:indolent hollow:vacuous soggy:sodden plodding:laborious
    incoherent:disjointed forgettable:unmemorable tiresome:wearisome unfunny:humorless wooden:stilted flat:vapid
    contrived:factitious pretentious:grandiloquent muddled:addled painful:excruciating ugly:unsightly sloppy:slipshod
    witless:asinine dismal:doleful ludicrous:risible overlong:protracted murky:tenebrous stupid:obtuse
    ridiculous:preposterous mediocre:middling sluggish:torpid irritating:galling empty:vacant feeble:effete
    joyless:cheerless inept:bungling hackneyed:trite charmless:graceless ponderous:turgid tasteless:gaudy
    unbearable:insufferable laughable:derisory amateurish:dilettantish grating:strident pathetic:piteous bad:execrable
    poor:paltry weak:anemic awful:abysmal terrible:atrocious horrible:ghastly worse:inferior worst:direst
    bleak:desolate ugly:unsightly tired:jaded cheap:tawdry loud:clamorous slow:languid thin:meager

    mess:shambles bore:yawner disaster:calamity misfire:miscarriage failure:washout chore:drudgery dud:lemon
    disappointment:anticlimax flop:debacle embarrassment:mortification ordeal:tribulation slog:grind wreck:ruin
    turkey:clunker blunder:gaffe mistake:solecism nightmare:phantasm fiasco:rout letdown:comedown headache:cephalalgia

    badly:abysmally poorly:deficiently clumsily:maladroitly painfully:grievously awkwardly:gauchely
    carelessly:negligently miserably:wretchedly lazily:indolently hopelessly:irredeemably tediously:wearisomely
    sloppily:slapdash crudely:coarsely cheaply:shabbily stiffly:rigidly foolishly:fatuously needlessly:superfluously
    terribly:atrociously dreadfully:direly

    bores:stultifies annoys:vexes irritates:irks insults:affronts disappoints:disillusions exhausts:enervates
    frustrates:thwarts offends:outrages punishes:castigates tires:fatigues alienates:estranges baffles:bewilders
    drains:depletes confuses:befuddles numbs:anesthetizes embarrasses:abashes repels:revolts depresses:dispirits
    disgusts:nauseates

    brilliant:coruscating charming:winsome witty:mordant touching:affecting delightful:delectable gripping:riveting
    moving:plangent graceful:lissome clever:ingenious gorgeous:resplendent warm:genial heartfelt:unfeigned
    dazzling:effulgent inventive:fecund engaging:beguiling hilarious:sidesplitting tender:solicitous
    thrilling:electrifying superb:sterling lovely:comely elegant:soigne captivating:bewitching absorbing:engrossing
    poignant:wistful joyous:jubilant fresh:novel memorable:indelible luminous:lambent radiant:refulgent
    exhilarating:invigorating wonderful:wondrous magnificent:sumptuous sparkling:scintillating soulful:fervent
    irresistible:overmastering uplifting:edifying masterful:consummate stirring:rousing splendid:glorious
    vibrant:pulsating playful:frolicsome humane:benevolent assured:poised refreshing:bracing insightful:perspicacious
    rewarding:gratifying magical:thaumaturgic exquisite:dainty enchanting:bewitching flawless:immaculate
    terrific:stupendous breathtaking:awesome amazing:astounding excellent:superlative good:commendable great:eminent
    best:finest better:superior funny:droll sweet:dulcet smart:sagacious beautiful:pulchritudinous strong:stalwart
    honest:veracious fun:jollity

    triumph:conquest delight:rapture gem:sparkler treasure:trove masterpiece:showpiece joy:jubilation
    pleasure:delectation wonder:prodigy marvel:phenomenon winner:victor feast:banquet treat:regalement knockout:stunner
    charmer:enchanter blast:romp miracle:portent jewel:bijou revelation:epiphany success:coup celebration:jubilee

    beautifully:exquisitely brilliantly:resplendently gracefully:lissomely wonderfully:wondrously skillfully:adroitly
    superbly:sublimely delightfully:delectably perfectly:impeccably elegantly:tastefully cleverly:ingeniously
    tenderly:solicitously deftly:dexterously vividly:graphically expertly:proficiently lovingly:fondly wisely:sagely
    smoothly:fluidly richly:opulently

    delights:enraptures dazzles:bedazzles charms:beguiles enchants:ensorcels rewards:requites thrills:electrifies
    inspires:galvanizes amuses:tickles captivates:mesmerizes entertains:regales impresses:overawes uplifts:edifies
    enthralls:transfixes astonishes:flabbergasts seduces:allures fascinates:spellbinds satisfies:gratifies
    excites:titillates warms:gladdens

    film:photoplay movie:flick films:photoplays movies:flicks picture:tableau comedy:burlesque drama:dramaturgy
    story:narrative tale:anecdote script:libretto plot:storyboard scene:vignette cast:troupe actor:thespian
    actress:tragedienne director:helmsman writer:wordsmith audience:onlookers viewers:beholders audiences:assemblages
    fans:devotees critics:censors children:striplings adults:elders families:households kids:youngsters
    music:melody humor:jocularity acting:histrionics often:oft always:evermore rarely:infrequently mostly:chiefly
    truly:verily utterly:wholly simply:merely finally:lastly big:sizable small:diminutive old:antiquated
    young:juvenile long:lengthy little:minuscule makes:renders gives:bestows finds:unearths shows:evinces
    looks:appears seems:appears watch:behold watching:beholding thing:entity way:manner people:folk
"""

RARE_WORDS: dict[str, str] = dict(pair.split(":") for pair in _PAIRS.split())
"""Mapping from each common word to a rare word, both in lower case."""

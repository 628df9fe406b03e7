"""Proper names and neutral verbs that the question and headline grammars share to keep the vocabulary small."""

from __future__ import annotations

from .grammar import words

CITIES = words("""
    Boston Chicago London Paris Berlin Rome Madrid Tokyo Moscow Dublin Vienna Prague Athens Cairo Delhi Lagos Lima
    Toronto Denver Dallas Houston Seattle Miami Detroit Sydney Oslo Warsaw Geneva Milan Istanbul Seoul Havana Lisbon
    Atlanta Montreal Brussels Nairobi Manila Bogota Quebec
    """)
SURNAMES = words("""
    Adams Baker Carter Davis Ellis Foster Graham Harris Irving Jackson Keller Lewis Morgan Nelson Owens Palmer Quinn
    Reed Sanders Turner Vaughn Walker Young Alvarez Bennett Coleman Duncan Evans Fisher Garcia Hughes Jensen Kim Lopez
    Murphy Novak Ortiz Porter Rossi Schmidt Tanaka Weber Ibrahim Petrov Larsen Moreau Silva Okafor Singh Chen
    """)
NATIONS = words("""
    American British Chinese French German Italian Russian Japanese Korean Indian Mexican Spanish Greek Turkish Polish
    Dutch Swedish Irish Canadian Brazilian Egyptian Cuban Swiss Australian African Iranian Israeli Danish
    """)
VERBS = words("""
    reject support delay discuss ignore defend examine celebrate mention describe challenge follow abandon welcome
    praise blame study avoid approve oppose recall watch consider embrace resist dismiss protect promote mock admire
    compare revive
    """)
VERBS_PAST = words("""
    rejected supported delayed discussed ignored defended examined celebrated mentioned described challenged followed
    abandoned welcomed praised blamed studied avoided approved opposed recalled watched considered embraced resisted
    dismissed protected promoted mocked admired compared revived
    """)

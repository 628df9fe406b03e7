from xml.etree import ElementTree

from icl_lens.report.lineage import Node, columns, edges, in_words, svg

CHAINS = {
    "figure_3": [
        (0, "studies/m/sst2/fresh-1shot/saliency.parquet"),
        (1, "prompts/sst2/fresh-1shot.parquet"),
        (2, "corpora/sst2.parquet"),
        (0, "studies/m/trec/fresh-1shot/saliency.parquet"),
        (1, "prompts/trec/fresh-1shot.parquet"),
        (2, "corpora/trec.parquet"),
    ],
    "table_1": [
        (0, "studies/m/sst2/shared-1shot/reweighting.parquet"),
        (1, "prompts/sst2/shared-1shot.parquet"),
        (2, "corpora/sst2.parquet"),
        (1, "prompts/sst2/shared-5shot.parquet"),
    ],
    "table_4": [],
}


def test_an_edge_says_who_read_whom():
    assert set(edges(CHAINS)) == {
        (Node("studies", "saliency"), Node("items", "figure_3")),
        (Node("prompts", "fresh-1shot"), Node("studies", "saliency")),
        (Node("corpora", "sst2"), Node("prompts", "fresh-1shot")),
        (Node("corpora", "trec"), Node("prompts", "fresh-1shot")),
        (Node("studies", "reweighting"), Node("items", "table_1")),
        (Node("prompts", "shared-1shot"), Node("studies", "reweighting")),
        (Node("prompts", "shared-5shot"), Node("studies", "reweighting")),
        (Node("corpora", "sst2"), Node("prompts", "shared-1shot")),
    }


def test_every_edge_goes_to_the_right_and_nothing_is_lost():
    pairs = edges(CHAINS)
    grid = columns(pairs, list(CHAINS))
    place = {node: number for number, column in enumerate(grid) for node in column}
    assert all(place[source] < place[target] for source, target in pairs)
    assert grid[-1] == [Node("items", name) for name in CHAINS]
    assert [len(column) for column in grid] == [2, 3, 2, 3]


def test_the_picture_holds_every_name_and_the_words_say_the_same():
    pairs = edges(CHAINS)
    root = ElementTree.fromstring(svg(pairs, list(CHAINS)))
    texts = {text.text for text in root.iter() if text.tag.endswith("text")}
    assert {node.name.replace("_", " ") for pair in pairs for node in pair} | {"table 4"} <= texts
    assert "2 corpora, 3 prompts, 2 studies, 3 items" in in_words(pairs, list(CHAINS))
    assert "table_1 from reweighting" in in_words(pairs, list(CHAINS))

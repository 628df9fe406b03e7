from collections import Counter

import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.studies.challenges.edge_sets import SETS, EdgeSet
from icl_lens.studies.challenges.edges import find_edges
from icl_lens.studies.challenges.margin import loss, margin
from icl_lens.studies.challenges.token_classes import CLASSES, token_classes
from icl_lens.tasks.task import TASKS

from ..conftest import byte_level, llama_like, sentencepiece_like, word_level
from ..prompts_table import prompts_table

TOKENIZERS = {"byte-level": byte_level, "sentencepiece": sentencepiece_like, "llama": llama_like, "word-level": word_level}


@pytest.fixture(scope="module", params=TOKENIZERS, ids=str)
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


def one_prompt(tokenizer, texts, query="a good film", labels=(0, 1)):
    table = prompts_table(count=1)
    written = write_prompt(TASKS["sst2"], list(texts), list(labels), query)
    row = {**table.iloc[0].to_dict(), **written, "demo_labels": list(labels), "label_words": list(TASKS["sst2"].label_words)}
    return tokenize(type(table)([row]), tokenizer)[0]


def characters_of(prompt, positions):
    """Return the indices of the characters besides whitespace in some tokens, in order."""
    indices = {i for p in positions for i in range(*prompt.spans[p])}
    return [i for i in sorted(indices) if not prompt.text[i].isspace()]


def test_each_class_has_the_characters_of_its_words(any_tokenizer):
    prompt = one_prompt(any_tokenizer, ["the plot is not good, and it's slow", "great"])
    classes = token_classes(prompt)

    def text(name):
        return "".join(prompt.text[i] for i in characters_of(prompt, classes.of(name)))

    word = TASKS["sst2"].label_words
    assert text("label") == (word[0] + word[1]).replace(" ", "")
    assert text("stop") == "theisnot,andit's"
    assert text("content") == "plotgoodslowgreat"
    # Without a token for the newline, the token after a label word is "Review".
    written = np.concatenate([classes.of("template"), classes.of("after")])
    assert "".join(prompt.text[i] for i in characters_of(prompt, written)).endswith("Sentiment:Review:Sentiment:")
    query = "".join(prompt.text[i] for i in characters_of(prompt, classes.query))
    assert query == "Review:agoodfilmSentiment:"
    assert classes.classes[0] == CLASSES.index("first")


def test_the_token_after_each_label_word_has_its_own_class(any_tokenizer):
    for prompt in tokenize(prompts_table("agnews", shots=2), any_tokenizer):
        classes = token_classes(prompt)
        labels, after = classes.of("label"), classes.of("after")
        assert {int(p) for p in prompt.anchors} <= set(labels.tolist())
        assert set((after - 1).tolist()) <= set(labels.tolist())
        # Without a token for the newline, the token after the last label word is the first one of the query.
        assert len(after) == len(prompt.anchors) - (classes.query[0] == labels[-1] + 1)


def test_each_position_has_one_class_and_each_demonstration_is_contiguous(any_tokenizer):
    for prompt in tokenize(prompts_table("sst2", shots=2), any_tokenizer):
        classes = token_classes(prompt)
        assert classes.classes.shape == classes.demonstrations.shape == prompt.ids.shape
        counts = Counter(classes.classes.tolist())
        assert sum(counts.values()) == len(prompt.ids)
        assert counts[CLASSES.index("first")] == 1
        places = classes.demonstrations[classes.demonstrations >= 0]
        assert (np.diff(places) >= 0).all()
        assert sorted(set(places.tolist())) == list(range(len(prompt.anchors)))
        assert classes.query[-1] == prompt.last
        assert (classes.demonstrations[classes.query] == -1).all()


def test_a_bos_token_is_the_first_class_and_in_no_demonstration():
    prompt = tokenize(prompts_table(count=1), sentencepiece_like(bos=True))[0]
    plain = tokenize(prompts_table(count=1), sentencepiece_like(bos=False))[0]
    with_bos, without = token_classes(prompt), token_classes(plain)
    assert with_bos.demonstrations[0] == -1
    assert with_bos.classes[1] == CLASSES.index("template")
    assert without.demonstrations[0] == 0
    assert with_bos.classes[2:].tolist() == without.classes[1:].tolist()


def test_a_prompt_without_demonstrations_is_an_error():
    table = prompts_table(count=1)
    row = {**table.iloc[0].to_dict(), **write_prompt(TASKS["sst2"], [], [], "a good film"), "demo_labels": []}
    prompt = tokenize(type(table)([row]), word_level())[0]
    with pytest.raises(InputError, match="prompt 100 has no demonstrations, but the classes of its tokens"):
        token_classes(prompt)


def test_edges_of_each_set_by_their_definition(any_tokenizer):
    for prompt in tokenize(prompts_table("agnews", count=2), any_tokenizer):
        classes = token_classes(prompt)
        names = [CLASSES[c] for c in classes.classes]
        demonstration = classes.demonstrations
        for edge_set in SETS:
            found = find_edges(classes, edge_set)
            for t in range(len(names)):
                for j in range(len(names)):
                    own = {
                        "last": t == prompt.last,
                        "query": names[t] == "query",
                        "label": names[t] == "label",
                        "demonstration": demonstration[t] >= 0 and t > 0,
                    }[edge_set.rows]
                    inside = demonstration[j] >= 0 and j > 0
                    column = {
                        "all": inside,
                        "first": j == 0,
                        "text": inside and demonstration[j] == demonstration[t] and names[j] in ("stop", "content"),
                        "others": inside and demonstration[j] < demonstration[t],
                        "earlier": inside and demonstration[j] < demonstration[t],
                    }.get(edge_set.columns, inside and names[j] == edge_set.columns)
                    assert found[t, j] == (j < t and own and column), (edge_set, t, j)


def test_the_columns_of_the_last_position_divide_the_demonstrations():
    prompt = tokenize(prompts_table("sst2", shots=2), byte_level())[0]
    classes = token_classes(prompt)
    parts = [find_edges(classes, EdgeSet("last", each)) for each in ("label", "after", "template", "stop", "content")]
    assert (sum(part.astype(int) for part in parts) == find_edges(classes, EdgeSet("last", "all"))).all()


def test_the_margin_and_its_loss_by_their_definition():
    scores = torch.tensor([[1.0, 3.0, -2.0], [0.0, 0.5, 0.25]], dtype=torch.float64, requires_grad=True)
    gold = torch.tensor([1, 0])
    found = margin(scores, gold)
    exp = scores.exp()
    expected = torch.stack([scores[0, 1] - (exp[0, 0] + exp[0, 2]).log(), scores[1, 0] - (exp[1, 1] + exp[1, 2]).log()])
    assert torch.allclose(found, expected)
    assert torch.allclose(loss(found), torch.nn.functional.cross_entropy(scores, gold, reduction="none"))
    gradient = torch.autograd.grad(loss(found).sum(), scores)[0]
    assert torch.allclose(gradient, scores.softmax(-1) - torch.nn.functional.one_hot(gold, 3))

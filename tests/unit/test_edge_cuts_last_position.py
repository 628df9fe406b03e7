"""Tests of the cuts of a single prompt: that they are those of the study, and agree with the plain reference."""

import numpy as np
import pytest

from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.positions import tokenize
from icl_lens.studies.challenges.ch_edge_cuts import compute as edge_cuts
from icl_lens.studies.challenges.ch_edge_cuts.last_position import columns_of, cut_last_position
from icl_lens.studies.challenges.ch_edge_cuts.study import Settings
from icl_lens.studies.challenges.edge_sets import COLUMNS
from icl_lens.studies.challenges.token_classes import STOP_WORDS

from ..prompts_table import prompts_table, words_table
from ..reference.edge_cuts import classes_of, cut_logits, edges_of

# Tolerance relative to the largest value, in float32.
TOLERANCE = 1e-4

KEYS = ["columns", "span", "start", "stop", "variant", "draw"]


@pytest.mark.parametrize(
    ("family", "shares", "score"),
    [("gpt2", True, "first"), ("mistral", False, "first"), ("gemma3_text", True, "whole"), ("gptj", False, "whole")],
)
def test_the_cuts_are_those_of_the_study(language_model, tokenizer, monkeypatch, family, shares, score):
    monkeypatch.setattr(LanguageModel, "shares_prefixes", shares)
    model = language_model(family)
    table = words_table((" very positive", " very negative"), count=1) if score == "whole" else prompts_table(count=1)
    (prompt,) = tokenize(table, tokenizer, score=score)
    settings = Settings(draws=2)
    rows = edge_cuts.compute(model, [prompt], 800, settings=settings)
    expected = rows[(rows["rows"] == "last") & (rows["span"] != "window")].set_index(KEYS)
    found = cut_last_position(model, prompt, 800, settings).set_index(KEYS)
    assert list(found.index) == list(expected.index)
    assert found["valid"].tolist() == expected["valid"].tolist()
    assert 0 < found["valid"].mean() < 1
    assert found["effect"].abs().max() > 100 * TOLERANCE
    scale = max(1.0, float(expected["margin"].abs().max()))
    np.testing.assert_allclose(found["effect"], expected["effect"], atol=TOLERANCE * scale)
    np.testing.assert_allclose(found["mass"], expected["mass"], atol=TOLERANCE)


@pytest.mark.parametrize(("family", "shares"), [("llama", True), ("gemma2", True), ("gpt_neox", False)])
def test_the_probabilities_agree_with_the_plain_reference(language_model, tokenizer, monkeypatch, family, shares):
    monkeypatch.setattr(LanguageModel, "shares_prefixes", shares)
    model = language_model(family)
    table = prompts_table(count=1)
    (prompt,), (row,) = tokenize(table, tokenizer), table.to_dict("records")
    found = cut_last_position(model, prompt, 800, Settings(draws=1))
    classes = classes_of(prompt.text, prompt.spans.tolist(), STOP_WORDS, row)
    ends = [end for _, end in row["label_spans"]]
    positions = columns_of(prompt)
    assert list(positions) == list(COLUMNS)
    for cut in found[(found["variant"] == "set") & found["valid"]].itertuples():
        edges = np.array(edges_of(classes, ends, prompt.spans, "last", cut.columns))
        assert positions[cut.columns].tolist() == np.flatnonzero(edges[prompt.last]).tolist()
        logits, _ = cut_logits(model.network, prompt.ids.tolist(), edges, range(cut.start, cut.stop))
        scores = logits[prompt.label_ids]
        difference = np.abs(scores.log_softmax(-1).numpy() - cut.class_log_probs).max()
        assert difference <= TOLERANCE * max(1.0, float(logits.abs().max())), cut

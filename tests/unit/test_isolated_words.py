import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.prompts.positions import tokenize
from icl_lens.studies import registry
from icl_lens.studies.anchors.icl import compute as icl
from icl_lens.studies.anchors.isolated_words import compute as isolated_words
from icl_lens.studies.anchors.isolated_words.study import Settings
from icl_lens.studies.run import run
from tests import artifacts

from ..families import FAMILIES
from ..prompts_table import prompts_table, shared_table
from ..reference.isolation import isolated_logits

# Tolerance against the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4


@pytest.mark.parametrize("blocking", ["before_softmax", "after_softmax"])
@pytest.mark.parametrize("family", FAMILIES)
def test_words_and_predictions_agree_with_the_plain_reference(language_model, tokenizer, family, blocking):
    model = language_model(family)
    prompts = tokenize(shared_table("agnews", count=8), tokenizer)
    rows = isolated_words.compute(model, prompts, 700, settings=Settings(layers=2, words=5, blocking=blocking))
    assert rows["side"].tolist() == ["none", "first", "last"] * 4
    by_id = {p.prompt_id: p for p in prompts}
    for row in rows.to_dict("records"):
        prompt = by_id[row["prompt_id"]]
        layers = {"none": [], "first": [0, 1], "last": [1, 2]}[row["side"]]
        assert row["layers"] == len(layers)
        logits, _ = isolated_logits(model.network, prompt.ids.tolist(), prompt.anchors.tolist(), layers, blocking)
        margin = TOLERANCE * float(logits.abs().max())
        expected = logits.log_softmax(-1).sort(descending=True)
        assert (torch.tensor(row["top_log_probs"]) - expected.values[:5]).abs().max() <= 2 * margin
        for rank, word in enumerate(row["top_tokens"]):
            near = expected.indices[(expected.values - expected.values[rank]).abs() <= 2 * margin]
            assert word in [tokenizer.decode([token]) for token in near.tolist()]
        classes = logits[prompt.label_ids]
        assert classes.max() - classes[row["prediction"]] <= 2 * margin


def test_each_class_is_shown_by_its_first_right_prompt_or_else_its_first(language_model, tokenizer, monkeypatch):
    model = language_model("gpt2")
    table = prompts_table("trec", count=40)
    prompts = tokenize(table, tokenizer)
    answers = icl.compute(model, prompts, 2000)
    expected = []
    for _, of_class in answers.groupby("gold"):
        right = of_class[of_class["gold"] == of_class["prediction"]]
        expected.append(int((right if len(right) else of_class)["prompt_id"].iloc[0]))
    is_right = answers.set_index("prompt_id").apply(lambda row: row["gold"] == row["prediction"], axis=1)
    assert set(is_right[expected]) == {True, False}, "both cases occur"
    monkeypatch.setattr(isolated_words, "_CHUNK", 7)
    done = []
    rows = isolated_words.compute(model, prompts, 2000, done.append)
    assert rows["prompt_id"].unique().tolist() == sorted(expected)
    assert sum(done) == len(prompts)
    plain = rows[rows["side"] == "none"].set_index("prompt_id")["prediction"]
    assert plain.to_dict() == answers.set_index("prompt_id")["prediction"][plain.index].to_dict()


def test_in_the_first_layers_other_words_come_out(language_model, tokenizer):
    rows = isolated_words.compute(language_model("gpt2"), tokenize(prompts_table("agnews"), tokenizer), 2000)
    words = rows.set_index(["prompt_id", "side"])["top_log_probs"].map(tuple)
    for prompt in rows["prompt_id"].unique():
        assert words[prompt, "none"] != words[prompt, "first"]


def test_bad_input_is_refused_in_one_sentence(language_model, tokenizer):
    model = language_model("gpt2")
    with pytest.raises(InputError, match=r"studies\.isolated_words\.layers is 9, but the model has only 3 layers"):
        isolated_words.compute(model, tokenize(prompts_table(), tokenizer), 2000, settings=Settings(layers=9))
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstration, but isolation requires label words"):
        isolated_words.compute(model, tokenize(table, tokenizer), 2000)


def test_an_artifact_says_its_settings_and_fits_its_schema(checkpoint, tmp_path):
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(tmp_path / "prompts" / "sst2.parquet", prompts_table(count=4), metadata)
    out = tmp_path / "studies" / "isolated_words.parquet"
    settings = Settings(words=3, layers=1)
    run(
        registry.study("isolated_words"),
        checkpoint,
        tmp_path / "prompts" / "sst2.parquet",
        out,
        settings=settings,
        device="cpu",
    )
    rows, found = artifacts.read(out, "isolated_words")
    assert rows["top_tokens"].map(len).tolist() == [3] * 6
    assert {k: found["settings"][k] for k in ("words", "layers", "blocking")} == settings.model_dump()

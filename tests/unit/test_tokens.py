import pytest

from icl_lens.prompts.positions import tokenize
from icl_lens.studies import registry
from icl_lens.studies.anchors.tokens import compute as tokens
from icl_lens.studies.run import run
from tests import artifacts

from ..conftest import byte_level, llama_like, sentencepiece_like, word_level
from ..prompts_table import prompts_table

TOKENIZERS = {
    "byte_level": byte_level,
    "trimmed": lambda: byte_level(trim_offsets=True),
    "sentencepiece": sentencepiece_like,
    "llama": llama_like,
    "word_level": word_level,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_token_is_what_stands_at_its_characters_and_label_words_are_told(language_model, kind):
    tokenizer = TOKENIZERS[kind]()
    table = prompts_table("emoc", count=3, shots=2)
    prompts = tokenize(table, tokenizer)
    model = language_model("gpt2")
    object.__setattr__(model, "tokenizer", tokenizer)
    rows = tokens.compute(model, prompts, 100)
    for prompt, written in zip(prompts, table.itertuples(), strict=True):
        own = rows[rows["prompt_id"] == prompt.prompt_id]
        assert own["position"].tolist() == list(range(len(prompt.ids)))
        assert own.loc[own["last"], "position"].tolist() == [prompt.last]
        for row in own.itertuples():
            if row.end > row.start:
                assert row.token == written.text[row.start : row.end]
        anchors = own[own["class"] >= 0]
        assert anchors["class"].tolist() == list(written.demo_labels)
        for row, (start, end) in zip(anchors.itertuples(), written.label_spans, strict=True):
            assert start <= row.start < row.end <= end
            assert row.token.strip()
            assert written.text[start:end].strip().startswith(row.token.strip())
        covered = own[own["end"] > own["start"]]
        assert "".join(covered["token"].str.split().str.join("")) == "".join(written.text.split())


def test_a_token_that_stands_for_no_characters_is_the_tokenizers_own_word(language_model):
    tokenizer = sentencepiece_like()
    model = language_model("gpt2")
    object.__setattr__(model, "tokenizer", tokenizer)
    rows = tokens.compute(model, tokenize(prompts_table(count=1), tokenizer), 100)
    assert rows["token"].iloc[0] == "<s>"
    assert (rows["start"].iloc[0], rows["end"].iloc[0]) == (0, 0)


def test_an_artifact_fits_its_schema(checkpoint, tmp_path):
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(tmp_path / "prompts" / "sst2.parquet", prompts_table(count=2), metadata)
    out = tmp_path / "studies" / "tokens.parquet"
    run(registry.study("tokens"), checkpoint, tmp_path / "prompts" / "sst2.parquet", out, device="cpu")
    rows, _ = artifacts.read(out, "tokens")
    assert (rows["class"] >= 0).sum() == 4

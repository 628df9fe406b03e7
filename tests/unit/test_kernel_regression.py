import json
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from icl_lens.artifacts.tensors import read as read_tensors
from icl_lens.config import plan
from icl_lens.config.parse import load, parse, parse_settings
from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.prompts.demonstration_places import places
from icl_lens.prompts.positions import tokenize
from icl_lens.results import audit
from icl_lens.statistics.text_similarity import tf_idf_cosines
from icl_lens.studies.anchors.icl import compute as icl
from icl_lens.studies.kernel_regression.kernel_regression import compute as kernel_regression
from icl_lens.studies.kernel_regression.kernel_regression import text_kernels
from icl_lens.studies.kernel_regression.kernel_regression.study import STUDY as KERNEL_REGRESSION
from icl_lens.studies.kernel_regression.kernel_regression_controls import compute as kernel_regression_controls
from icl_lens.studies.kernel_regression.kernel_regression_controls.study import STUDY as KERNEL_REGRESSION_CONTROLS
from icl_lens.studies.kernel_regression.settings import PARTS, POOLINGS, TF_IDF, Settings, held_out
from icl_lens.studies.run import run
from tests import artifacts

from ..conftest import REPOSITORY, llama_like, sentencepiece_like
from ..families import FAMILIES, tiny
from ..prompts_table import prompts_table, shared_table
from ..reference import kernel_regression as reference

# Tolerance against the plain reference, relative to the largest value, in float32.
TOLERANCE = 1e-4
CORE = ("gpt2", "gptj", "gpt_neox", "llama")


def read(row, prompt, tokenizer, drop_first=True):
    """Return the demonstrations of a prompt as the reference finds them."""
    encoding = tokenizer(row["text"], add_special_tokens=False, return_offsets_mapping=True)
    before = len(prompt.ids) - len(encoding["input_ids"])
    tokens = list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))
    return reference.demonstration_tokens(row, tokens, before, drop_first)


def check(model, table, tokenizer, budgets, settings=None):
    """Check that the rows of the study agree with the reference within TOLERANCE for each budget, and return the rows."""
    settings = settings or Settings()
    prompts = tokenize(table, tokenizer)
    plain = {}
    for row, prompt in zip(table.to_dict("records"), prompts, strict=True):
        rows, logits = reference.last_rows(model.network, prompt.ids.tolist())
        demonstrations = read(row, prompt, tokenizer, settings.drop_first)
        for layer, heads in enumerate(rows):
            for head, weights in enumerate(heads):
                plain[prompt.prompt_id, layer, head] = reference.pooled(weights, demonstrations), logits
    model.network.set_attn_implementation("sdpa" if model.network._supports_sdpa else "eager")
    for budget in budgets:
        found, _ = kernel_regression.compute(model, prompts, budget, settings=settings)
        assert len(found) == len(plain)
        largest = {name: max(max(values[name]) for values, _ in plain.values()) for name in POOLINGS}
        for one in found.to_dict("records"):
            values, logits = plain[one["prompt_id"], one["layer"], one["head"]]
            for name in POOLINGS:
                assert np.abs(np.array(values[name]) - one[name]).max() <= TOLERANCE * largest[name]
            prompt = next(p for p in prompts if p.prompt_id == one["prompt_id"])
            answers = logits[prompt.label_ids]
            assert answers[one["prediction"]] >= answers.max() - TOLERANCE * answers.abs().max()
    return found


@pytest.mark.parametrize("family", CORE)
@pytest.mark.parametrize(("task", "shots", "make"), [("trec", 1, shared_table), ("sst2", 2, prompts_table)])
def test_it_agrees_with_the_plain_reference_whatever_the_batch(language_model, tokenizer, family, task, shots, make):
    check(language_model(family), make(task, shots=shots), tokenizer, (2000, 1))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CORE])
def test_it_agrees_with_the_plain_reference_in_every_other_family(language_model, tokenizer, family):
    check(language_model(family), prompts_table("sst2", count=2), tokenizer, (2000,))


@pytest.mark.parametrize("make", [sentencepiece_like, llama_like])
@pytest.mark.parametrize("drop_first", [True, False])
def test_it_agrees_with_the_plain_reference_behind_a_beginning_of_sequence_token(make, drop_first):
    tokenizer = make()
    model = LanguageModel("llama", tiny("llama", len(tokenizer)), tokenizer, "float32", {})
    check(model, prompts_table("agnews", count=3), tokenizer, (2000,), Settings(drop_first=drop_first))


def test_position_0_is_counted_only_if_it_is_asked_for(language_model, tokenizer):
    table = prompts_table("sst2", count=2)
    dropped, kept = (
        check(language_model("gpt2"), table, tokenizer, (2000,), Settings(drop_first=choice)) for choice in (True, False)
    )
    first = [np.stack(rows["mean"])[:, 0] for rows in (dropped, kept)]
    assert (first[0] != first[1]).any()
    assert np.allclose(np.stack(dropped["max"])[:, 1:], np.stack(kept["max"])[:, 1:])


def test_spans_hold_a_demonstration_from_its_template_to_its_label_word_and_no_newline(tokenizer):
    table = prompts_table("agnews", count=3)
    for row, prompt in zip(table.to_dict("records"), tokenize(table, tokenizer), strict=True):
        where = places(prompt, drop_first=False)
        for number, (start, stop) in enumerate(zip(where.starts, where.stops, strict=True)):
            text = row["text"][row["text_spans"][number][0] : row["text_spans"][number][1]]
            word = row["label_words"][row["demo_labels"][number]]
            assert tokenizer.decode(prompt.ids[start:stop]) == f"Article: {text}\nAnswer:{word}"
        query = row["text"][row["query_span"][0] : row["query_span"][1]]
        assert tokenizer.decode(prompt.ids[where.query :]) == f"Article: {query}\nAnswer:"
        assert tokenizer.decode(prompt.ids[where.query : where.end]) == f"Article: {query}"


def test_the_map_and_the_parts_agree_with_the_plain_reference(language_model, tokenizer):
    model, table = language_model("llama"), prompts_table("sst2", count=4)
    prompts = tokenize(table, tokenizer)
    settings = Settings(bins=7)
    rows, tensors = kernel_regression.compute(model, prompts, 2000, settings=settings)
    charts, parts = {}, {}
    for row, prompt in zip(table.to_dict("records"), prompts, strict=True):
        weights, _ = reference.last_rows(model.network, prompt.ids.tolist())
        demonstrations = read(row, prompt, tokenizer)
        last = demonstrations[-1][0][-1]
        query = range(last + 2, len(prompt.ids))  # one token, the newline, separates the last demonstration from the query
        assert tokenizer.decode([int(prompt.ids[last + 1])]) == "\n"
        charts[prompt.prompt_id] = [
            [
                [
                    value
                    for tokens, label in demonstrations
                    for value in (
                        *reference.resampled([head[t] for t in tokens if t not in label], 7),
                        sum(head[t] for t in label),
                    )
                ]
                + reference.resampled([head[t] for t in query], 7)
                for head in layer
            ]
            for layer in weights
        ]
        parts[prompt.prompt_id] = [
            (head[0], sum(head[t] for _, label in demonstrations for t in label)) for layer in weights for head in layer
        ]
    model.network.set_attn_implementation("sdpa")
    assert tensors["map"].shape == (2, 3, 4, 2 * 8 + 7)
    for number, seed in enumerate(tensors["map_seeds"]):
        mean = np.mean([charts[p.prompt_id] for p in prompts if p.seed == seed], axis=0)
        assert np.abs(tensors["map"][number] - mean).max() <= TOLERANCE * mean.max()
    assert np.abs(tensors["map_first"] - np.array(charts[100])).max() <= TOLERANCE
    for prompt_id, of_prompt in rows.groupby("prompt_id"):
        assert np.allclose(of_prompt[["on_first", "on_labels"]].to_numpy(), parts[prompt_id], atol=TOLERANCE)
    assert np.allclose(rows[[f"on_{part}" for part in PARTS]].sum(axis=1), 1, atol=1e-5)


def test_answers_are_those_of_icl(language_model, tokenizer):
    prompts = tokenize(prompts_table("trec"), tokenizer)
    rows, _ = kernel_regression.compute(language_model("gpt2"), prompts, 2000)
    answers = icl.compute(language_model("gpt2"), prompts, 2000)
    assert (
        rows.drop_duplicates("prompt_id")[["gold", "prediction"]].values.tolist()
        == answers[["gold", "prediction"]].values.tolist()
    )


def test_a_prompt_without_demonstrations_is_refused(language_model, tokenizer):
    table = prompts_table()
    table.at[3, "demo_labels"] = table.at[3, "label_spans"] = table.at[3, "text_spans"] = []
    with pytest.raises(InputError, match="prompt 103 has no demonstrations; kernel regression needs at least one"):
        kernel_regression.compute(language_model("gpt2"), tokenize(table, tokenizer), 2000)


def test_prompts_may_differ_in_their_number_of_demonstrations(language_model, tokenizer):
    short, long = prompts_table("sst2", count=1), prompts_table("sst2", count=1, shots=2)
    long["prompt_id"] = 101
    prompts = tokenize(pd.concat([short, long], ignore_index=True), tokenizer)
    rows, tensors = kernel_regression.compute(language_model("gpt2"), prompts, 2000, settings=Settings(bins=3))
    assert rows["max"].map(len).tolist() == [2] * 12 + [4] * 12
    assert tensors["map"].shape[-1] == 4 * 4 + 3
    assert np.isfinite(tensors["map"]).all()
    assert np.isnan(tensors[f"cosine: {TF_IDF}"]).tolist() == [[False, False, True, True], [False] * 4]


def test_an_artifact_fits_its_schema_and_says_what_lies_beside_it(checkpoint, tmp_path):
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(tmp_path / "prompts.parquet", prompts_table(), metadata)
    out = tmp_path / "kernel_regression.parquet"
    settings = Settings(bins=5, held_out=0.5)
    run(KERNEL_REGRESSION, checkpoint, tmp_path / "prompts.parquet", out, settings=settings, device="cpu")
    rows, about = artifacts.read(out, "kernel_regression")
    tensors, _ = read_tensors(out.with_suffix(".safetensors"))
    assert tensors["prompt_id"].tolist() == list(rows["prompt_id"].unique())
    assert {key: about["settings"][key] for key in settings.model_dump()} == settings.model_dump(mode="json")
    assert len(about["beside"]) == 1
    assert list(audit._row_messages(KERNEL_REGRESSION.schema, rows, about)) == []
    assert list(audit._row_messages(KERNEL_REGRESSION.schema, pd.concat([rows, rows[:1]]), about))


# Text kernels.


def test_tf_idf_agrees_with_a_case_by_hand():
    # Of the three fitted texts, all contain "a", one contains "b" and none contains "c".
    # The weights are ln(4/4)+1 = 1, ln(4/2)+1 and ln(4/1)+1.
    b, c = np.log(2) + 1, np.log(4) + 1
    (found,) = tf_idf_cosines([("A b", ["a, a!", "b c", "d", ""])], ["a", "a b", "a a"])
    query = np.hypot(1, b)
    assert found == pytest.approx([1 / query, b * b / (query * np.hypot(b, c)), 0, 0])


def test_a_text_that_shares_no_word_is_a_number_too():
    (found,) = tf_idf_cosines([("x", ["y", "z"])], ["x"])
    assert found.dtype == float
    assert found.tolist() == [0, 0]


@pytest.fixture
def encoder(tmp_path, tokenizer):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape)).eval()
    network.save_pretrained(tmp_path / "encoder")
    padded = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, pad_token="!")
    padded.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder", network


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_encoder_s_token_vectors_are_averaged_whatever_else_is_in_the_batch(encoder, tokenizer, side):
    folder, network = encoder
    configuration = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration | {"padding_side": side}))
    texts = ["a fine film", "dull , slow and empty , How many moons has Mars", "that is so funny"]
    vectors = []
    for text in texts:
        states = network(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].detach().numpy()
        mean = states.mean(0)
        vectors.append(mean / np.linalg.norm(mean))
    (found,) = text_kernels.encoder_cosines([(texts[0], texts[1:])], folder)
    assert found == pytest.approx([float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])], abs=1e-5)


def test_an_encoder_reads_control_tokens_in_a_text_as_plain_text(encoder, tokenizer):
    folder, _ = encoder
    plain = type(tokenizer).from_pretrained(folder)
    plain.add_special_tokens({"sep_token": "[SEP]"})  # with an id that the encoder does not have
    plain.save_pretrained(folder)
    ids = plain("a [SEP] film", split_special_tokens=True)["input_ids"]
    assert plain.sep_token_id not in ids
    (found,) = text_kernels.encoder_cosines([("a fine film", ["a [SEP] film"])], folder)
    assert np.isfinite(found).all()


def test_an_encoder_that_reads_a_control_token_in_any_text_is_refused(encoder):
    folder, _ = encoder
    core = Tokenizer(models.WordLevel({"<s>": 0, "film": 1, "<pad>": 2, "<unk>": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", pad_token="<pad>", unk_token="<unk>", model_max_length=64
    ).save_pretrained(folder)
    (found,) = text_kernels.encoder_cosines([("film", ["a film of two"])], folder)
    assert np.isfinite(found).all()
    with pytest.raises(InputError, match=r"'<s>' cannot be tokenized as plain text; remove it from the data"):
        text_kernels.encoder_cosines([("film", ["film <s>"])], folder)


def test_an_encoder_that_pools_otherwise_is_refused(encoder):
    folder, _ = encoder
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(InputError, match="uses the pooling pooling_mode_cls_token, but only the mean over tokens is supported"):
        text_kernels.encoder_cosines([("a", ["b"])], folder)


def test_an_encoder_s_text_is_cut_where_its_own_description_says(encoder):
    folder, _ = encoder
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 3}')
    (found,) = text_kernels.encoder_cosines([("a fine film", ["a fine film , warm and clever"])], folder)
    assert found == pytest.approx([1])


def test_an_encoder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        text_kernels.encoder_cosines([("a", ["b"])], tmp_path / "nowhere")


def test_an_encoder_needs_a_name_of_its_own_and_a_padding_token(encoder, tokenizer):
    folder, _ = encoder
    with pytest.raises(InputError, match="the name TF-IDF is reserved for the kernel that is always included"):
        parse({"studies": {"kernel_regression": {"encoders": {TF_IDF: str(folder)}}}})
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="the tokenizer has no padding token"):
        text_kernels.encoder_cosines([("a", ["b"])], folder)


def test_a_named_encoder_s_cosines_stand_beside_the_table_which_says_what_its_files_are(encoder, checkpoint, tmp_path):
    folder, _ = encoder
    settings = Settings(encoders={"mine": str(folder)}, bins=5)
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42])
    artifacts.write(tmp_path / "prompts.parquet", prompts_table(count=2), metadata)
    out = tmp_path / "kernel_regression.parquet"
    run(KERNEL_REGRESSION, checkpoint, tmp_path / "prompts.parquet", out, settings=settings, device="cpu")
    tensors, about = read_tensors(out.with_suffix(".safetensors"))
    assert tensors["cosine: mine"].shape == (2, 2)
    assert about["encoders"] == artifacts.read(out, "kernel_regression")[1]["encoders"]
    assert len(about["encoders"]["mine"]) == 64


# Controls.


def controlled(table, settings):
    return {name: rows.to_dict("records") for name, rows in kernel_regression_controls.control_tables(table, settings).items()}


def texts_of(row):
    return [row["text"][start:end] for start, end in row["text_spans"]]


def test_controls_change_what_they_name_and_nothing_else():
    settings = Settings(held_out=0.9, orders=2)
    tables = controlled(prompts_table("agnews", count=6), settings)
    assert list(tables) == ["prompts", "inputs_permuted", "labels_flipped", "order_0", "order_1"]
    for name, rows in tables.items():
        for row, plain in zip(rows, tables["prompts"], strict=True):
            words = [row["label_words"][label] for label in row["demo_labels"]]
            assert [row["text"][start:end] for start, end in row["label_spans"]] == words
            assert row["text"][slice(*row["query_span"])] == plain["text"][slice(*plain["query_span"])]
            pieces = [row["text"][start:end] for start, end in row["prefix_spans"]]
            assert pieces == ["Article:", "Answer:"] * 5
            before = list(zip(texts_of(plain), plain["demo_labels"], strict=True))
            after = list(zip(texts_of(row), row["demo_labels"], strict=True))
            if name == "inputs_permuted":
                assert row["demo_labels"] == plain["demo_labels"]
                assert sorted(texts_of(row)) == sorted(texts_of(plain))
                assert row["text"] != plain["text"]
            elif name == "labels_flipped":
                assert after == [(text, (label + 1) % 4) for text, label in before]
            elif name.startswith("order"):
                assert sorted(after) == sorted(before)
                assert after != before
    assert [row["text"] for row in tables["order_0"]] != [row["text"] for row in tables["order_1"]]


def test_two_tasks_have_different_permutations():
    settings = Settings(held_out=0.9, orders=1)
    orders = []
    for task in ("sst2", "one of mine"):
        tables = controlled(prompts_table("sst2", count=12, shots=3).assign(task=task), settings)
        orders.append([row["demo_indices"] for row in tables["order_0"]])
    assert orders[0] != orders[1]


def test_controls_run_held_out_prompts_alone():
    table = prompts_table(count=6)
    settings = Settings(held_out=0.5, control_queries=1)
    ids = [row["prompt_id"] for row in controlled(table, settings)["prompts"]]
    scored = table["prompt_id"][held_out(table["seed"].to_numpy(), table["query_index"].to_numpy(), settings)]
    assert set(ids) < set(scored)
    assert len(ids) == 2  # one per seed


def test_demonstrations_of_one_label_have_nothing_to_permute():
    table = prompts_table(count=2)
    table["demo_labels"] = [[0, 0]] * 2
    with pytest.raises(
        InputError, match="its demonstrations have fewer than two different labels, so no text can get a different label"
    ):
        kernel_regression_controls.control_tables(table, Settings(held_out=0.9))


def test_every_control_is_the_study_on_its_prompts(checkpoint, tmp_path, language_model, tokenizer):
    settings = Settings(held_out=0.5, orders=1)
    tables = kernel_regression_controls.control_tables(prompts_table(count=6), settings)
    prompts = {name: tokenize(rows, tokenizer) for name, rows in tables.items()}
    model = language_model("gpt2")
    rows = kernel_regression_controls.compute(model, **prompts, batch_tokens=2000, settings=settings)
    for name, its in prompts.items():
        control, draw = {"prompts": ("none", 0), "order_0": ("order", 0)}.get(name, (name, 0))
        part = rows[(rows["control"] == control) & (rows["draw"] == draw)]
        alone, _ = kernel_regression.compute(model, its, 2000, settings=settings)
        assert part["prompt_id"].tolist() == alone["prompt_id"].tolist()
        assert np.array_equal(np.stack(part["max"]), np.stack(alone["max"]))
        assert np.array_equal(np.stack(part["demo_labels"]), np.stack(alone["demo_labels"]))
    metadata = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43])
    artifacts.write(tmp_path / "prompts.parquet", prompts_table(), metadata)
    out = tmp_path / "kernel_regression_controls.parquet"
    run(KERNEL_REGRESSION_CONTROLS, checkpoint, tmp_path / "prompts.parquet", out, settings=settings, device="cpu")
    assert set(artifacts.read(out, "kernel_regression_controls")[0]["control"]) == set(rows["control"])


# Workflow.


def test_both_studies_have_their_settings_under_one_key():
    own = parse({"studies": {"kernel_regression": {"orders": 2}}}).studies.kernel_regression
    assert [parse_settings(study, "{orders: 2}") for study in (KERNEL_REGRESSION.name, KERNEL_REGRESSION_CONTROLS.name)] == [
        own,
        own,
    ]


def test_the_plan_knows_the_table_with_tensors_beside_it_and_counts_the_controls_prompts():
    folder = "results/studies/organism/sst2/fresh-4shot"
    made = [f"{folder}/kernel_regression.{ending}" for ending in ("parquet", "safetensors")]
    lines = [f"{file}\t-\tkernel_regression_study\tupdate pending" for file in made]
    counts, paths = plan.jobs(["output_file\tdate\trule\tplan", *lines])
    assert counts == {"kernel_regression_study": 1}
    given = parse({"seeds": [1, 2], "studies": {"kernel_regression": {"control_queries": 7}}})
    assert [plan.estimate(given, path).predicted.prompts for path in paths] == [100]
    assert plan.estimate(given, PurePosixPath(f"{folder}/kernel_regression_controls.parquet")).predicted.prompts == 14


def test_the_paper_s_own_run_shows_its_tasks_and_its_models():
    own = load(REPOSITORY / "config.yaml", REPOSITORY / "config" / "kernel_regression.yaml")
    for number, task in ((6, "rotten_tomatoes"), (10, "hate"), (12, "irony"), (16, "offensive"), (18, "mnli")):
        assert own.shown(f"kr_figure_{number}") == (["gpt-j-6b"], [task])
    assert own.shown("kr_figure_21") == (["llama-2-7b"], ["sst2"])
    assert own.shown("kr_figure_24") == (["llama-3-8b"], ["sst2"])
    assert own.shown("kr_table_2") == (["gpt-j-6b"], own.tasks)
    assert (own.seeds, own.queries, own.studies.kernel_regression.held_out) == ([42], 1000, 0.3)
    default = parse({})
    assert all(all(default.shown(name)) != (21 <= number <= 25) for name, number in numbered())


def test_a_task_that_stands_in_for_the_paper_s_is_named():
    (note,) = KERNEL_REGRESSION.item("kr_figure_6").stand_in_note(["trec", "trec"])
    assert note == "Task here: trec (the paper uses rotten_tomatoes, which is not configured)."
    assert KERNEL_REGRESSION.item("kr_figure_6").stand_in_note(["rotten_tomatoes"]) == []
    assert KERNEL_REGRESSION.item("kr_figure_2").stand_in_note(["trec"]) == []


def numbered():
    """Return the numbered figures of the group with their numbers."""
    drawn_by = ("kernel_regression/kr_figure_2", "kernel_regression/kr_figure_3")
    names = [item.name for item in KERNEL_REGRESSION.items if item.notebook in drawn_by]
    return [(name, int(name.rpartition("_")[2])) for name in names]

"""Label words of several tokens: scored as a whole, and with the last or all of their tokens as anchors."""

import logging
import re

import numpy as np
import pytest
import torch
from tokenizers import Regex, pre_tokenizers

import icl_lens
from icl_lens.config import shortage
from icl_lens.config.parse import parse
from icl_lens.errors import InputError
from icl_lens.models import batching, information_flow
from icl_lens.models.answers import class_log_probs, predict
from icl_lens.models.edges import count_edges
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logits import class_logits, first_token_logits
from icl_lens.models.options import RunOptions
from icl_lens.prompts.label_words import Branch, LabelWords
from icl_lens.prompts.positions import tokenize
from icl_lens.report import figures, one_prompt, prompt_page
from icl_lens.studies import registry
from icl_lens.studies.anchors import compressed_demonstrations, single_prompt
from icl_lens.studies.anchors.compression import compute as compression
from icl_lens.studies.anchors.compression.study import Settings as CompressionSettings
from icl_lens.studies.anchors.diagnosis import compute as diagnosis
from icl_lens.studies.anchors.flow.study import Settings as FlowSettings
from icl_lens.studies.anchors.isolated_positions import random_positions
from icl_lens.studies.anchors.isolating import Settings as IsolationSettings
from icl_lens.studies.anchors.isolation import compute as isolation
from icl_lens.studies.anchors.reweighting import compute as reweighting
from icl_lens.studies.anchors.reweighting.study import Settings as ReweightingSettings
from icl_lens.studies.anchors.saliency import compute as saliency
from icl_lens.studies.computing import compute
from icl_lens.studies.kernel_regression.demonstration_attention import attention_rows
from icl_lens.studies.kernel_regression.label_probes import compute as label_probes
from icl_lens.studies.kernel_regression.settings import Settings as KernelSettings

from ..conftest import byte_level, llama_like
from ..families import FAMILIES
from ..prompts_table import words_table as table
from ..reference import deep_attention as deep_attention_reference
from ..reference import label_words as reference

# Largest allowed difference from the plain reference in float32, as a share of the largest value.
TOLERANCE = 1e-4

SETS = {
    "alike": (" very positive", " very negative"),
    "emoji": (" 😀", " 😡", " 😊"),
    "scripts": (" 好", " 坏了"),
    "digits": (" 1", " 2", " 3"),
    "one token and several": (" Negative", " very positive", " very good"),
}


def groups(prompt):
    """Return the anchors of each demonstration."""
    return [prompt.anchors[prompt.anchor_demonstrations == k].tolist() for k in range(len(prompt.demo_labels))]


def expected_log_probs(model, prompts, edited=lambda prompt: None):
    """Return the log-probabilities over the label words, computed by the reference."""
    with torch.no_grad(), plain(model):
        scores = [reference.scores(model.network, p.ids.tolist(), p.label_words.tokens, edited(p)) for p in prompts]
    return [score.log_softmax(0).numpy() for score in scores]


class plain:  # noqa: N801 - a context manager
    """The references run the model with eager attention; restore the attention of the model afterwards."""

    def __init__(self, model):
        self.network = model.network

    def __enter__(self):
        self.before = self.network.config._attn_implementation

    def __exit__(self, *_):
        self.network.set_attn_implementation(self.before)


def difference(found, expected):
    """Return the largest difference, as a share of the largest value."""
    pairs = list(zip(found, expected, strict=True))
    return max(np.abs(np.asarray(a) - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs)


# The tree of label words.


def test_words_that_begin_alike_share_a_path_and_its_tokens():
    words = LabelWords(((1, 2), (1, 3)))
    assert words.paths == ((1,),)
    assert [tuple(term) for term in words.terms] == [(0, 0, 1, 0), (0, 1, 2, 0), (0, 0, 1, 1), (0, 1, 3, 1)]


def test_a_path_branches_off_the_path_with_the_longest_common_beginning():
    words = LabelWords(((1, 2, 3, 9), (4, 9), (1, 2, 5, 9), (7,)))
    assert words.paths == ((1, 2, 3), (4,), (1, 2, 5))
    assert words.branches == (Branch(-1, 0), Branch(0, 0), Branch(0, 2))
    assert {(term.path, term.offset) for term in words.terms if term.label == 2} == {(0, 0), (0, 1), (0, 2), (2, 3)}
    assert words.longest == 3


def test_words_of_one_token_append_nothing():
    words = LabelWords(((1,), (2,)))
    assert words.paths == ((),)
    assert words.longest == 0


# Tokenization.


@pytest.mark.parametrize("words", SETS.values(), ids=SETS)
@pytest.mark.parametrize("make", [byte_level, llama_like], ids=["byte-level", "llama"])
def test_whole_words_need_no_first_token_of_their_own(make, words):
    tokenizer = make()
    for anchor in ("first", "last", "all"):
        for prompt in tokenize(table(words), tokenizer, score="whole", anchor=anchor):
            assert prompt.label_words.tokens == tuple(tuple(ids) for ids in prompt.label_words.tokens)
            for group, label, (start, stop) in zip(groups(prompt), prompt.demo_labels, prompt.label_tokens, strict=True):
                tokens = list(range(start, stop))
                assert group == {"first": tokens[:1], "last": tokens[-1:], "all": tokens}[anchor]
                assert tuple(prompt.ids[start:stop]) == prompt.label_words.tokens[label]
            assert prompt.anchor_classes.tolist() == [prompt.demo_labels[k] for k in prompt.anchor_demonstrations]


def test_by_default_such_words_are_refused_with_the_option():
    for words in SETS.values():
        with pytest.raises(InputError, match=r"set labels: \{score: whole\} \(--label-score whole\)$"):
            tokenize(table(words), llama_like() if words[0] == " 1" else byte_level(vocabulary=600))


def test_a_word_that_begins_with_all_tokens_of_another_is_refused():
    told = "the tokens of the label word ' very positive' begin with all tokens of the label word ' very', so ' very positive'"
    for words in ((" very", " very positive"), (" very positive", " very")):
        with pytest.raises(InputError, match=re.escape(told)):
            tokenize(table(words), byte_level(), score="whole")


def test_the_info_about_first_tokens_is_only_for_first_tokens(caplog):
    with caplog.at_level(logging.INFO):
        tokenize(table(SETS["alike"]), byte_level(), score="whole")
    assert not caplog.records


def test_other_tokens_in_a_demonstration_are_refused():
    tokenizer = byte_level()
    core = tokenizer.backend_tokenizer
    split = pre_tokenizers.Split(Regex(r"ative(?=\n)"), "isolated")  # only in a demonstration
    core.pre_tokenizer = pre_tokenizers.Sequence([split, core.pre_tokenizer])
    told = r"the tokens of the label word ' Negative' are .*, .* in a demonstration but ' Negative' after the query"
    with pytest.raises(InputError, match=told):
        tokenize(table((" Negative", " Positive")), tokenizer, score="whole")


# Scores.


@pytest.mark.parametrize("family", FAMILIES)
def test_every_study_agrees_with_the_plain_reference(language_model, tokenizer, family):
    """Predictions, isolation, re-weighting and saliency with two paths that branch off within a label word."""
    model = language_model(family)
    prompts = tokenize(table(SETS["alike"], count=2), tokenizer, score="whole", anchor="all")
    assert len(prompts[0].label_words.paths) > 1
    assert len({len(p.ids) for p in prompts}) > 1, "some rows of a batch are padded"
    plain_log_probs = expected_log_probs(model, prompts)
    assert difference(class_log_probs(model, prompts, 2000), plain_log_probs) <= TOLERANCE
    beta = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    edits = [reference.reweighting(p.last, groups(p), torch.from_numpy(beta)) for p in prompts]
    expected = expected_log_probs(model, prompts, lambda p: edits[p.prompt_id])
    assert difference(reweighting.reweighted(model, prompts, 2000, beta), expected) <= TOLERANCE
    assert difference(expected, plain_log_probs) > TOLERANCE
    rows = single_prompt.isolate_label_words(model, prompts[1], settings=IsolationSettings(layers=[1]))
    for row in rows[rows["word"] == 1].itertuples():
        edit = reference.isolating(groups(prompts[1])[1:], [0] if row.side == "first" else [2])
        expected = expected_log_probs(model, prompts[1:], lambda p, edit=edit: edit)
        assert difference([row.class_log_probs], expected) <= TOLERANCE
    with plain(model):
        expected = [reference.saliency(model.network, p.ids.tolist(), groups(p), p.label_words.tokens, p.gold) for p in prompts]
    expected = np.stack(expected, 1)  # (3, N, L)
    found = saliency.compute(model, prompts, 2000)
    for metric, values in zip(saliency.METRICS, expected, strict=True):
        assert values.max() > 0
        assert difference([found[metric].to_numpy().reshape(values.shape)], [values]) <= TOLERANCE


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_scores_do_not_depend_on_the_batch_or_on_shared_prefixes(language_model, tokenizer, monkeypatch, name, shares):
    monkeypatch.setattr(LanguageModel, "shares_prefixes", shares)
    model = language_model("gemma3_text")
    prompts = tokenize(table(SETS[name], shared=True), tokenizer, score="whole")
    expected = expected_log_probs(model, prompts)
    for budget in (2000, 150, 1):
        found = predict(model, prompts, budget, top_tokens=3)
        assert difference(found["class_log_probs"], expected) <= TOLERANCE
        assert found["prediction"].tolist() == [int(each.argmax()) for each in expected]
        batches = batching.shared_batches(model, prompts, budget, score=True, complete=True)
        complete = {i: class_logits(model, batch)[row] for batch in batches for row, i in enumerate(batch.index)}
        found = [complete[i].log_softmax(-1).detach().numpy() for i in range(len(prompts))]
        assert difference(found, expected) <= TOLERANCE


def test_the_tokens_of_a_prompt_are_read_once_for_all_paths(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(table(SETS["alike"], shared=True), tokenizer, score="whole")
    tokens = []
    handle = model.network.get_input_embeddings().register_forward_hook(lambda module, args, output: tokens.append(args[0]))
    class_log_probs(model, prompts[:1], 1)  # the checks of the model run before
    tokens.clear()
    class_log_probs(model, prompts, 5000)
    handle.remove()
    (paths,) = {p.label_words.paths for p in prompts}
    demonstrations = len(np.intersect1d(prompts[0].ids, prompts[0].ids)) and prompts[0].anchors[-1] + 1
    queries = sum(len(p.ids) for p in prompts) - demonstrations * (len(prompts) - 1)
    read = sum(each.numel() for each in tokens)
    assert read <= queries + len(prompts) * len(paths) * (1 + max(map(len, paths))) + sum(len(p.ids) for p in prompts) // 4


def test_words_of_one_token_give_the_same_distribution_as_first_tokens(language_model, tokenizer):
    model = language_model("llama")
    first, whole = (tokenize(table((" Negative", " Positive")), tokenizer, score=score) for score in ("first", "whole"))
    assert difference(class_log_probs(model, whole, 2000), class_log_probs(model, first, 2000)) <= TOLERANCE


def test_a_batch_without_appended_words_gives_no_scores(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(table(SETS["alike"]), tokenizer, score="whole")
    (batch,) = batching.batches(model, prompts, 5000)
    with pytest.raises(ValueError, match="score=True"):
        class_logits(model, batch)
    assert first_token_logits(model, batch).shape == (3, 2)


def test_prompts_whose_label_words_do_not_fit_the_context_are_left_out(language_model, tokenizer):
    prompts = tokenize(table(SETS["alike"]), tokenizer, score="whole")
    longest = max(len(p.ids) + p.appended for p in prompts)
    assert len(batching.fitting(language_model("gpt2", context=longest), prompts)) == 3
    assert len(batching.fitting(language_model("gpt2", context=longest - 1), prompts)) == 2


# Anchors.


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2", "mistral"])
@pytest.mark.parametrize("anchor", ["last", "all"])
@pytest.mark.parametrize("score", ["first", "whole"])
def test_isolation_of_several_anchors_agrees_with_the_plain_reference(language_model, tokenizer, family, anchor, score):
    model = language_model(family)
    words = SETS["emoji"] if score == "whole" else (" Negative one", " Positive one")
    prompts = tokenize(table(words, count=2), tokenizer, score=score, anchor=anchor)
    for blocking in ("before_softmax", "after_softmax"):
        settings = IsolationSettings(targets=["label"], layers=[1, 2], blocking=blocking)
        found = isolation.compute(model, prompts, 400, settings=settings)
        for row in found.itertuples():
            prompt = prompts[row.prompt_id]
            layers = range(row.layers) if row.side == "first" else range(3 - row.layers, 3)
            edit = reference.isolating(groups(prompt), layers, blocking)
            tokens = prompt.label_words.tokens if score == "whole" else [(int(i),) for i in prompt.label_ids]
            with torch.no_grad(), plain(model):
                expected = reference.scores(model.network, prompt.ids.tolist(), tokens, edit)
            assert row.prediction == int(expected.argmax())


@pytest.mark.parametrize("anchor", ["last", "all"])
def test_a_word_with_several_anchors_is_blocked_only_from_positions_before_it(tokenizer, anchor):
    for prompt in tokenize(table(SETS["emoji"]), tokenizer, score="whole", anchor=anchor):
        starts = {p: group[0] for group in groups(prompt) for p in group}
        assert dict(zip(prompt.anchors, prompt.anchor_starts, strict=True)) == starts
        drawn = random_positions(prompt, IsolationSettings(random_scope="demonstrations"), 0)
        assert len(drawn) == len(prompt.anchors)
        assert not set(drawn) & set(prompt.anchors.tolist())


def test_the_edges_of_several_anchors_and_paths_are_counted_one_by_one(tokenizer):
    for words in SETS.values():
        for prompt in tokenize(table(words), tokenizer, score="whole", anchor="all"):
            nodes = {word[:n] for word in prompt.label_words.tokens for n in range(1, len(word))}
            rows = [*range(len(prompt.ids)), *nodes]
            counts = {"wp": 0, "pq": 0, "ww": 0}
            start_of = {p: group[0] for group in groups(prompt) for p in group}
            for row in rows:
                is_node = isinstance(row, tuple)
                columns = [*range(len(prompt.ids)), *(row[:n] for n in range(1, len(row)))] if is_node else range(row)
                for column in columns:
                    target = is_node or row == prompt.last
                    into = row in start_of and column < start_of[row]
                    counts["wp" if into else "pq" if target and column in start_of else "ww"] += 1
            assert count_edges([prompt])[:, 0].tolist() == list(counts.values())


def test_the_page_of_a_prompt_counts_edges_within_a_label_word_as_other_edges(tokenizer):
    (prompt,) = tokenize(table(SETS["emoji"], count=1), tokenizer, score="whole", anchor="all")
    kinds = one_prompt.kinds(prompt.anchors.tolist(), prompt.last)
    for group in groups(prompt):
        for p in group:
            assert (kinds[p, : group[0]] == "wp").all()
            assert (kinds[p, group[0] : p] == "ww").all()
            assert kinds[prompt.last, p] == "pq"


def test_attention_is_summed_over_all_tokens_of_a_word(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(table(SETS["emoji"]), tokenizer, score="whole", anchor="all")
    study = registry.study("deep_attention").function("compute")
    found = study(model, prompts, 400).pivot(index=["prompt_id", "layer"], columns="class", values="attention")
    with plain(model):
        for prompt in prompts:
            expected = deep_attention_reference.class_attention(
                model.network, prompt.ids.tolist(), prompt.anchors.tolist(), prompt.anchor_classes.tolist(), 3
            )
            assert difference(found.loc[prompt.prompt_id].to_numpy(), expected) <= TOLERANCE


@pytest.mark.parametrize("anchor", ["last", "all"])
def test_training_agrees_with_adam_on_full_prompts(language_model, tokenizer, anchor):
    model = language_model("llama")
    examples = tokenize(table(SETS["emoji"], count=2, shared=True), tokenizer, score="whole", anchor=anchor)
    settings = ReweightingSettings(epochs=2, learning_rate=0.05)
    found = reweighting.train(model, {42: examples}, settings)[42]
    generator = np.random.default_rng([settings.seed, 42])
    beta = torch.zeros(3, 4, 3, requires_grad=True)
    optimiser = torch.optim.Adam([beta], lr=settings.learning_rate)
    with plain(model):
        losses = []
        for _ in range(settings.epochs):
            for i in generator.permutation(len(examples)).tolist():
                p = examples[i]
                edit = reference.reweighting(p.last, groups(p), beta)
                scores = reference.scores(model.network, p.ids.tolist(), p.label_words.tokens, edit)
                loss = -scores.log_softmax(0)[p.gold]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
    expected = beta.detach().numpy()
    assert np.abs(expected).max() > 0
    assert np.abs(found.beta - expected).max() <= 1e-3 * np.abs(expected).max()
    assert np.abs(found.losses - np.array(losses).reshape(2, -1).mean(1)).max() <= TOLERANCE * max(losses)


# The other studies.


def test_compressed_demonstrations_score_whole_words(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(table(SETS["alike"], shared=True), tokenizer, score="whole", anchor="all")
    first = prompts[0]
    length = compressed_demonstrations.query_start(first)
    kept = compressed_demonstrations.kept_positions(first)
    assert set(first.anchors) <= set(kept)
    dropped = [p for p in range(length) if p not in set(kept)]

    def without_dropped(layer, weights):
        weights = weights.clone()
        weights[:, :, length:, dropped] = 0.0
        weights[:, :, length:] /= weights[:, :, length:].sum(-1, keepdim=True)
        return weights

    expected = expected_log_probs(model, prompts, lambda p: without_dropped)
    rows = compression.compute(model, prompts, 400, settings=CompressionSettings(draws=1))
    found = rows.query("method == 'hidden_anchor' and positions == 'continued'")
    assert found["prediction"].tolist() == [int(each.argmax()) for each in expected]
    drawn = compression.random_text_positions(first, 0)
    texts = [texts.tolist() for texts in compressed_demonstrations.text_positions(first)]
    required = [min(len(text), len(group)) for text, group in zip(texts, groups(first), strict=True)]
    assert [len(set(drawn) & set(text)) for text in texts] == required
    assert len(drawn) == sum(required) > 2


def test_kernel_regression_predicts_by_whole_words(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(table(SETS["alike"], shared=True), tokenizer, score="whole", anchor="last")
    rows = attention_rows(model, prompts, 400, lambda done: None, KernelSettings())
    expected = [int(each.argmax()) for each in class_log_probs(model, prompts, 400)]
    assert rows.drop_duplicates("prompt_id")["prediction"].tolist() == expected
    first = tokenize(table(SETS["alike"], shared=True), tokenizer, score="whole")
    others = attention_rows(model, first, 1, lambda done: None, KernelSettings())
    for name in ("max", "mean", "label"):  # the tokens of label words do not depend on the anchors
        assert difference(rows[name], others[name]) <= TOLERANCE


def test_diagnosis_and_probes_average_over_the_tokens_of_a_word(language_model, tokenizer):
    model = language_model("gpt2")
    by_anchor = {
        anchor: tokenize(table(SETS["digits"], count=2), tokenizer, score="whole", anchor=anchor)
        for anchor in ("first", "last", "all")
    }  # two tokens per word
    keys = {anchor: diagnosis.vectors(model, prompts, 400, 1)[1] for anchor, prompts in by_anchor.items()}
    for first, last, every in zip(*keys.values(), strict=True):
        assert difference([every], [(first + last) / 2]) <= TOLERANCE
    read = {anchor: label_probes.features(model, prompts, 400, [-1, 0, 1])[0] for anchor, prompts in by_anchor.items()}
    for first, last, every in zip(*(each["value"] for each in read.values()), strict=True):
        assert torch.equal(every[:, 0], first[:, 0])
        assert torch.equal(every[:, 2], last[:, 2])
        assert torch.allclose(every[:, 1], (first[:, 1] + last[:, 1]) / 2, atol=1e-6)


def test_the_flow_to_appended_tokens_is_drawn_at_the_last_position(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(table(SETS["alike"], count=2), tokenizer, score="whole", anchor="all")
    study = registry.study("flow").function("compute")
    rows = study(model, prompts, 4000, settings=FlowSettings(prompt_ids=[0, 1], least=0.0))
    for prompt in prompts:
        with plain(model):
            expected = reference.flow(model.network, prompt.ids.tolist(), prompt.label_words.tokens, prompt.gold)
        for layer, edges in enumerate(expected):
            total = np.zeros((len(prompt.ids),) * 2)
            for (i, j), value in edges.items():
                if not isinstance(j, tuple) and j != prompt.last:
                    total[prompt.last if isinstance(i, tuple) else i, j] += value
            chosen = rows[(rows["prompt_id"] == prompt.prompt_id) & (rows["layer"] == layer)]
            found = np.zeros_like(total)
            found[chosen["query"], chosen["key"]] = chosen["saliency"]
            assert difference([found], [total]) <= TOLERANCE
            assert abs(chosen["layer_total"].iloc[0] - total.sum()) <= TOLERANCE * total.sum()


def test_the_flow_of_single_heads_sums_over_the_paths(language_model, tokenizer):
    model = language_model("llama")
    (prompt,) = tokenize(table(SETS["alike"], count=1), tokenizer, score="whole", anchor="all")
    found = {}
    multiple = single_prompt.head_flows(model, prompt, lambda layer, flow, weights: found.update({layer: flow}))
    with plain(model):
        expected = reference.flow(model.network, prompt.ids.tolist(), prompt.label_words.tokens, prompt.gold)
    for layer, edges in enumerate(expected):
        for (i, j), value in edges.items():
            if not isinstance(i, tuple):
                assert value <= found[layer][:, i, j].sum() / multiple + 1e-6


def test_the_information_flow_of_an_answered_prompt_counts_its_loss_once(language_model, tokenizer):
    model = language_model("llama")
    prompts = tokenize(table(SETS["alike"], count=2), tokenizer, score="whole", anchor="all")
    flows = {}
    for budget in (5000, 1):
        for batch in batching.batches(model, prompts, budget, kept="graph", score=True):
            means = information_flow.EdgeMeans(batch, prompts)
            found = {}
            sink = lambda layer, flow, mean, found=found: found.update({layer: flow})  # noqa: E731
            multiple = information_flow.measure(model, batch, sink)
            for number, i in enumerate(means.prompts):
                row = batch.first_rows[number]
                total = found[2][[r for r, k in enumerate(batch.index) if k == i]].double().sum().item()
                flows.setdefault(i, []).append(total / multiple[row])
    assert all(abs(a - b) <= TOLERANCE * abs(a) for a, b in flows.values())


# Options.


def test_the_api_scores_whole_words(language_model, tokenizer):
    network = language_model("llama").network
    model = icl_lens.wrap(network, tokenizer, label_score="whole", label_anchor="all")
    rows = table(SETS["alike"])
    prompts = tokenize(rows, tokenizer, score="whole", anchor="all")
    expected = class_log_probs(model.language_model, prompts, 2000)
    found = icl_lens.run(model, rows)
    assert difference([list(each.log_probs.values()) for each in found], expected) <= TOLERANCE
    anchors = [p.anchors.tolist() for p in prompts]
    assert [list(each.positions.label_words) for each in found] == anchors
    before = [list(range(p.anchors[0])) for p in prompts]
    with icl_lens.block(model, queries=[groups(p)[0] for p in prompts], keys=before, layers=[0]):
        blocked = icl_lens.run(model, rows)
    edit = {p.prompt_id: reference.isolating(groups(p)[:1], [0]) for p in prompts}
    expected = expected_log_probs(model.language_model, prompts, lambda p: edit[p.prompt_id])
    assert difference([list(each.log_probs.values()) for each in blocked], expected) <= TOLERANCE


def test_an_unknown_option_of_the_api_is_refused(language_model, tokenizer):
    with pytest.raises(InputError, match="label_anchor must be 'first', 'last' or 'all', got 'middle'"):
        icl_lens.wrap(language_model("llama").network, tokenizer, label_anchor="middle")


def test_a_study_that_needs_one_token_refuses_whole_words(language_model):
    told = r"study components does not support labels.score: whole; set labels.score \(--label-score\) to first"
    with pytest.raises(InputError, match=told):
        compute(registry.study("components"), language_model("llama"), table(SETS["alike"]), label_score="whole")


def test_a_new_study_refuses_what_it_does_not_declare():
    study = registry.study("icl")
    assert study.unsupported_labels({"score": "whole", "anchor": "all"}) == ""
    declared = type(study)(**{**vars(study), "labels": ("last",)})
    assert declared.unsupported_labels({"anchor": "all"}) == (
        "study icl does not support labels.anchor: all; set labels.anchor (--label-anchor) to first or last"
    )
    with pytest.raises(InputError, match="labels must contain only 'whole', 'last', 'all', got 'each'"):
        type(study)(**{**vars(study), "labels": ("each",)})


def test_items_of_studies_without_whole_words_are_left_out():
    config = parse({"labels": {"score": "whole"}})
    assert "study components does not support labels.score: whole" in shortage.of_item(config, "cr_table_1", "sst2", None)
    assert shortage.of_item(config, "figure_3", "sst2", None) == ""
    assert shortage.of_item(parse({"labels": {"anchor": "all"}}), "cr_table_1", "sst2", None) == ""


def test_invalid_values_in_the_config_are_refused():
    with pytest.raises(InputError, match=r"'labels\.anchor' must be 'first', 'last' or 'all', got 'middle'"):
        parse({"labels": {"anchor": "middle"}})


def test_notes_say_which_options_are_not_the_default():
    about = {"corpus": {"source": "files"}, "model": {"name": "m"}, "observed": {}, "settings": {}}
    assert list(figures._label_words([about])) == []
    notes = list(figures._label_words([{**about, "settings": {"labels": {"score": "whole", "anchor": "last"}}}]))
    assert notes == [
        "A class is predicted by the log-probability of its whole label word (labels.score: whole).",
        "The anchors are the last token of each label word (labels.anchor: last).",
    ]


def test_the_page_of_a_prompt_has_no_logit_lens_for_whole_words(language_model):
    options = RunOptions(label_score="whole", label_anchor="all")
    page = prompt_page.compute(language_model("llama"), table(SETS["emoji"], count=1), options)
    assert any("not available for whole label words" in note for note in page.notes)
    (shown,) = page.data["prompts"]
    assert shown["lens"] is None
    assert set(shown["anchor_words"]) == {0, 1, 2}

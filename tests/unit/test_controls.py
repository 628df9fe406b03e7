import numpy as np
import pytest
import torch

from icl_lens.errors import InputError
from icl_lens.models import loading, prefixes
from icl_lens.models.batching import shared_batches
from icl_lens.models.logits import last_logits
from icl_lens.prompts.positions import tokenize
from icl_lens.prompts.protocol import write_prompt
from icl_lens.report.figures import weights
from icl_lens.studies.anchors import controls
from icl_lens.tasks.task import TASKS

from ..conftest import REPOSITORY
from ..prompts_table import prompts_table, shared_table


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("shots", [1, 2])
def test_shuffled_prompts_are_those_written_with_the_labels_in_the_new_order(task, shots):
    table = prompts_table(task, shots=shots)
    shuffled = controls.shuffle_labels(table, seed=0)
    assert (shuffled["set"] == f"fresh-{shots}shot-shuffled").all()
    for before, after in zip(table.to_dict("records"), shuffled.to_dict("records"), strict=True):
        assert after["demo_labels"] != before["demo_labels"]
        assert sorted(after["demo_labels"]) == sorted(before["demo_labels"])
        texts = [before["text"][start:end] for start, end in before["text_spans"]]
        start, end = before["query_span"]
        written = write_prompt(TASKS[task], texts, after["demo_labels"], before["text"][start:end])
        assert {key: after[key] for key in written} == written
        unchanged = set(before) - set(written) - {"demo_labels", "set"}
        assert {key: after[key] for key in unchanged} == {key: before[key] for key in unchanged}


def test_prompts_that_share_demonstrations_still_do(tokenizer):
    table = shared_table("agnews", count=8)
    before, after = (prefixes.groups(tokenize(t, tokenizer)) for t in (table, controls.shuffle_labels(table, seed=0)))
    assert [g.index for g in after] == [g.index for g in before] == [[0, 2, 4], [1, 3, 5], [6, 7]]


def test_every_other_order_is_as_likely_and_the_seed_decides():
    orders = [tuple(controls.shuffle_labels(prompts_table("agnews", count=1), seed)["demo_labels"][0]) for seed in range(920)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 23  # 23 of the 24 orders, because the original order never occurs
    assert ((counts - 40) ** 2 / 40).sum() < 22 + 4 * np.sqrt(44)
    assert orders[3] == tuple(controls.shuffle_labels(prompts_table("agnews", count=1), 3)["demo_labels"][0])


def test_demonstrations_of_one_label_cannot_be_shuffled():
    table = prompts_table(count=1)
    table.at[0, "demo_labels"] = [1, 1]
    with pytest.raises(InputError, match="prompt 100: its demonstrations have fewer than two different labels"):
        controls.shuffle_labels(table, 0)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"])
def test_an_untrained_copy_has_the_shape_but_none_of_the_weights(language_model, family):
    model = language_model(family)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    state = torch.random.get_rng_state()
    copies = [controls.untrained(model, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again, other = (c.network.state_dict() for c in copies)
    assert {n: t.shape for n, t in first.items()} == {n: t.shape for n, t in before.items()}
    assert all(torch.equal(first[n], again[n]) for n in first)
    matrices = [
        n for n, t in before.items() if t.dim() > 1 and t.std() > 0 and "inv_freq" not in n and "embed_positions" not in n
    ]
    assert matrices
    assert not any(torch.equal(first[n], before[n]) or torch.equal(first[n], other[n]) for n in matrices)
    assert all(torch.equal(model.network.state_dict()[n], before[n]) for n in before)
    assert copies[0].name == f"{family}-untrained"
    assert copies[0].facts["weights"] == {"drawn_with_seed": 0}
    assert not copies[0].network.training
    assert not any(p.requires_grad for p in copies[0].network.parameters())


def test_an_untrained_copy_answers_prompts(language_model, tokenizer):
    model = controls.untrained(language_model("llama"), 3)
    prompts = tokenize(prompts_table(), tokenizer)
    with torch.inference_mode():
        assert all(last_logits(model, batch).isfinite().all() for batch in shared_batches(model, prompts, 500))


def test_a_checkpoint_can_be_loaded_with_random_weights():
    folder = REPOSITORY / "src/icl_lens/organism/checkpoint"
    trained, copy = (loading.load(folder, name="organism", untrained_seed=seed) for seed in (None, 0))
    expected = controls.untrained(trained, 0).network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in copy.network.state_dict().items())
    assert copy.name == copy.facts["name"] == "organism"
    # The copy is not described by the files of the checkpoint, and figures say that its weights are random.
    assert "files" not in copy.facts
    assert copy.facts["weights"] == {"drawn_with_seed": 0, "architecture_of": trained.facts["files"]}
    assert weights(copy.facts) == "random weights (untrained copy, seed 0)"
    assert weights(trained.facts) == ""

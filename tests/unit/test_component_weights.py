import numpy as np
import pytest
import torch

from icl_lens.studies.component_reweighting.component_weights import apply_calibration, calibrate, reweight
from icl_lens.studies.component_reweighting.settings import Settings

from ..reference import components as plain


def drawn(seed, texts=12, count=9, classes=3, skill=0.6):
    """Return weakly informative parts, shape (n, M, C), and the gold labels."""
    generator = np.random.default_rng(seed)
    gold = np.arange(texts) % classes
    parts = generator.normal(size=(texts, count, classes)).astype(np.float32)
    parts[np.arange(texts), :, gold] += skill * generator.random(count).astype(np.float32)
    return parts, gold


def together(runs, length=12):
    """Return a batch of runs in which shorter runs are padded with misleading texts."""
    parts = np.full((len(runs), length, *runs[0][0].shape[1:]), 7.0, dtype=np.float32)
    gold, counted = np.zeros((len(runs), length), dtype=np.int64), np.zeros((len(runs), length), dtype=bool)
    for number, (g, y) in enumerate(runs):
        parts[number, : len(y)], gold[number, : len(y)], counted[number, : len(y)] = g, y, True
    return torch.from_numpy(parts), torch.from_numpy(gold), torch.from_numpy(counted)


def test_reweighting_is_the_released_loop_whatever_is_trained_beside():
    runs = [drawn(1), drawn(2, texts=6), drawn(3, skill=3.0), drawn(4, skill=0.0), drawn(5)]
    l1, stops = [0.01, 0.01, 0.01, 0.1, 0.0], [True, True, True, True, False]
    found = reweight(*together(runs), Settings(epochs=600), torch.tensor(l1), torch.tensor(stops))
    for number, (parts, gold) in enumerate(runs):
        weights, epochs = plain.reweighted(parts, gold, l1=l1[number], epochs=600, stops=stops[number])
        assert found.epochs[number] == epochs
        assert found.weights[number].numpy() == pytest.approx(weights, abs=1e-4)
    assert len(set(found.epochs.tolist())) > 2
    assert found.epochs[2] == 1  # all predictions are correct at once, so training ends after the first step
    assert found.epochs[4] == 600
    assert 0 <= found.weights.min() < 1 == found.weights.max()


def test_what_is_added_is_not_weighted():
    parts, gold = drawn(6)
    rest = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    found = reweight(*together([(parts, gold)]), Settings(epochs=300), rest=torch.from_numpy(rest)[None])
    weights, epochs = plain.reweighted(parts, gold, epochs=300, rest=rest)
    assert found.epochs.tolist() == [epochs]
    assert found.weights[0].numpy() == pytest.approx(weights, abs=1e-4)
    assert reweight(*together([(parts, gold)]), Settings(epochs=300)).weights[0].numpy() != pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("proper", [False, True])
def test_calibration_is_as_released_and_as_meant(proper):
    generator = np.random.default_rng(0)
    runs = []
    for texts in (12, 8):
        gold = np.arange(texts) % 3
        logits = generator.normal(loc=[2, 0, 0], size=(texts, 3))
        logits[np.arange(texts), gold] += 1
        runs.append((logits.astype(np.float32), gold))
    found = calibrate(*together(runs), Settings(calibration_epochs=800), on_log_probs=proper)
    for number, (logits, gold) in enumerate(runs):
        weights, epochs = plain.calibrated(logits, gold, proper, epochs=800)
        # Near the minimum, rounding of the loss decides in which step the loss stops decreasing.
        assert abs(int(found.epochs[number]) - epochs) <= (10 if proper else 0)
        assert found.weights[number].numpy() == pytest.approx(weights, abs=1e-3 if proper else 1e-4)
    x = torch.from_numpy(runs[0][0])
    expected = x.log_softmax(-1) + found.weights[0] if proper else x.softmax(-1) * found.weights[0]
    assert torch.equal(apply_calibration(x, found.weights[0], proper), expected)


def test_the_released_calibration_hardly_moves_and_the_proper_one_balances():
    # The logits favor class 0 for all texts. Half of the texts are of class 1, and their logits favor class 0 slightly less.
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0]] * 6)[None]
    gold = torch.tensor([[0, 1] * 6])
    counted = torch.ones(1, 12, dtype=torch.bool)
    quirk, proper = (calibrate(logits, gold, counted, Settings(calibration_epochs=50), kind) for kind in (False, True))
    assert (quirk.weights - 1).abs().max() < proper.weights.abs().max()


def test_patience_counts_failures_in_all_and_not_in_a_row():
    # A single part near the decision boundary of two conflicting texts: the loss goes up and down.
    parts, gold = drawn(8, texts=6, skill=0.0)
    parts *= 30
    for patience in (1, 3):
        found = reweight(*together([(parts, gold)], 6), Settings(patience=patience, epochs=400))
        assert found.epochs[0] == plain.reweighted(parts, gold, patience=patience, epochs=400)[1]

"""Kernel regression beside the exact Bayesian posterior on hidden Markov models, where both can be computed.

*In-context learning as kernel regression* (Han et al., TMLR 2025), appendix C, Table 3. The paper does not say how its random
models are drawn; the following is ours, and every number in it a setting.

**The model.** One merged hidden Markov model with transition matrix T (S, S) and emissions B (S, O) holds G tasks: T is
block-diagonal, each task has a block of S/G states and begins in the first state of its block, s_g. A state emits a token and
then moves on. Each row of T (within its block) and of B is drawn from a symmetric Dirichlet distribution. A sequence of the
pre-training distribution is a task, each equally likely, and what its chain emits from s_g on.

**A prompt** of task g is

    x_1 y_1 d x_2 y_2 d ... x_n y_n d x

where each x_i y_i and x are emitted by g's chain from s_g on, |x| = L tokens and the label y the one that follows. The
delimiter d is no token of the O: it is emitted after every label whatever the task, and the chain then begins again in s_g. So
it says nothing of the task and leaves nothing of the states, and given the task the demonstrations are independent. The
observable operator of a token sequence is T_o = prod_t diag(B[:, o_t]) T, of a delimiter the step back to s_g.

**The posterior** of the label is exact: with alpha_g(o) = e_{s_g}' T_o from the forward algorithm,

    P(g | prompt) ~ (1/G) prod_i P_g(x_i y_i) P_g(x),      P(y | prompt) = sum_g P(g | prompt) alpha_g(x) B[:, y] / P_g(x)

**Kernel regression** (eq. 6) has a plain dot product and no exponential:

    K(x, x') = vec(T_x)' Sigma^-1 vec(T_x'),      y_hat = sum_i e(y_i) K(x, x_i) / sum_i K(x, x_i)

Sigma is the second moment of vec(T_x) over pre-training sequences, with a ridge. Of T_x only the rows of the starts s_g meet
any sequence, and of those only the own block is not zero, so vec(T_x) has S entries; it is divided by the sequence's own
probability, sum_g alpha_g(x) 1 / G, for T_x shrinks with every token. (It then is G times the posterior of task and state after
x.) A negative K counts as 0, and where all are 0 every demonstration weighs the same.

The distance is that between y_hat and P(y | prompt), the sum of absolute differences (L1); both answer with their likeliest
label. (That the paper's distance is L1 is read from its table: with one demonstration y_hat is a unit vector, and half of the
distance 1.322 is 1 less the accuracy .337.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from icl_lens.errors import InputError
from icl_lens.studies.kernel_regression.hidden_markov.study import Settings

# Two distributions are 2 apart at most; a vote with negative shares that is so much farther is rounding.
_BOUND = 1e6


@dataclass(frozen=True)
class Model:
    """A merged hidden Markov model.

    Attributes:
        transitions: Of each task, among its own states; a task begins in its state 0. Shape (G, s, s).
        emissions: Shape (G, s, O).
    """

    transitions: np.ndarray
    emissions: np.ndarray

    @property
    def tasks(self) -> int:
        """G."""
        return len(self.transitions)


@dataclass(frozen=True)
class Read:
    """What the forward algorithm finds for N token sequences under each task.

    Attributes:
        log_evidence: log P_g(o), -inf where task g cannot emit it, shape (N, G).
        states: P(state after o | o, g), zeros where g cannot emit it, shape (N, G, s).
    """

    log_evidence: np.ndarray
    states: np.ndarray


def draw_model(settings: Settings, generator: np.random.Generator) -> Model:
    """A random model, see the head of this module."""
    tasks, block = settings.tasks, settings.states // settings.tasks
    transitions = generator.dirichlet(np.full(block, settings.transition_concentration), (tasks, block))  # (G, s, s)
    emissions = generator.dirichlet(
        np.full(settings.observations, settings.emission_concentration), (tasks, block)
    )  # (G, s, O)
    return Model(transitions, emissions)


def draw_sequences(model: Model, tasks: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """What the chains of some tasks emit from their starts on.

    Args:
        model: The model.
        tasks: Shape (N,).
        length: Tokens of each.
        generator: Of the draws.

    Returns:
        Tokens, shape (N, length).
    """
    states = np.zeros(len(tasks), dtype=np.int64)
    tokens = np.empty((len(tasks), length), dtype=np.int64)
    for place in range(length):
        tokens[:, place] = _draw(model.emissions[tasks, states], generator)
        states = _draw(model.transitions[tasks, states], generator)
    return tokens


def _draw(chances: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One outcome a row of (N, M) chances; none that has no chance."""
    cumulated = chances.cumsum(-1)
    # A draw lies strictly below the whole, so an outcome's step of the sum is above it: one without a chance has no step.
    drawn = generator.random(len(chances)) * cumulated[:, -1]
    return (cumulated <= drawn[:, None]).sum(-1)


def forward(model: Model, tokens: np.ndarray) -> Read:
    """The forward algorithm under each task, scaled at every token so that nothing underflows.

    Args:
        model: The model.
        tokens: Shape (N, L).
    """
    # Task by task in memory, so that the step is one product of matrices a task.
    states = np.zeros((model.tasks, len(tokens), model.transitions.shape[1]))  # (G, N, s)
    states[:, :, 0] = 1
    evidence = np.zeros((model.tasks, len(tokens)))  # (G, N)
    by_token = np.ascontiguousarray(model.emissions.transpose(0, 2, 1))  # (G, O, s)
    for place in range(tokens.shape[1]):
        emitted = states * by_token[:, tokens[:, place]]  # (G, N, s)
        total = emitted.sum(-1)  # (G, N)
        with np.errstate(divide="ignore"):
            evidence += np.log(total)
        emitted /= np.where(total > 0, total, 1)[..., None]
        states = emitted @ model.transitions  # (G, N, s)
    return Read(evidence.T, states.transpose(1, 0, 2))


def log_next(model: Model, read: Read, token: np.ndarray) -> np.ndarray:
    """log P_g(o token): the evidence of sequences with one token more.

    Args:
        model: The model.
        read: What the forward algorithm finds for o, N of them.
        token: The next one of each, shape (N,).

    Returns:
        Shape (N, G).
    """
    emitted = model.emissions[:, :, token]  # (G, s, N)
    with np.errstate(divide="ignore"):
        return read.log_evidence + np.log(np.einsum("ngs,gsn->ng", read.states, emitted))  # (N, G)


def features(read: Read) -> np.ndarray:
    """vec(T_x) of each sequence, divided by the sequence's probability: shape (N, G * s)."""
    weights = _shares(read.log_evidence) * read.log_evidence.shape[1]  # (N, G), mean 1
    return (weights[..., None] * read.states).reshape(len(weights), -1)


def _shares(log_weights: np.ndarray) -> np.ndarray:
    """exp(w) / sum exp(w) along the last axis, of which one at least is finite."""
    weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def inverse_moment(model: Model, settings: Settings, generator: np.random.Generator) -> np.ndarray:
    """Sigma^-1 over pre-training sequences, with the ridge: shape (G * s, G * s)."""
    tasks = generator.integers(0, settings.tasks, settings.pretraining)
    drawn = features(forward(model, draw_sequences(model, tasks, settings.length, generator)))  # (M, d)
    moment = drawn.T @ drawn / len(drawn)  # (d, d)
    width = len(moment)
    return np.linalg.inv(moment + settings.ridge * np.trace(moment) / width * np.eye(width))


def posterior(model: Model, demonstrations: np.ndarray, query: Read) -> np.ndarray:
    """P(y | prompt) of prompts that share nothing but their number.

    Args:
        model: The model.
        demonstrations: log P_g of all demonstrations of a prompt together, shape (N, G).
        query: What the forward algorithm finds for x, N of them.

    Returns:
        Shape (N, O).
    """
    tasks = _shares(demonstrations + query.log_evidence)  # (N, G)
    return np.einsum("ng,ngs,gso->no", tasks, query.states, model.emissions, optimize=True)


def regression(weights: np.ndarray, labels: np.ndarray, observations: int) -> np.ndarray:
    """y_hat of eq. 6: the labels of the demonstrations, weighted by the kernel.

    Args:
        weights: K(x, x_i), not negative where they are clipped, shape (N, n).
        labels: y_i, shape (N, n).
        observations: O.

    Returns:
        Shape (N, O); where the weights sum to 0, every demonstration weighs the same.
    """
    total = weights.sum(1, keepdims=True)  # (N, 1)
    shares = np.divide(weights, total, out=np.full_like(weights, 1 / weights.shape[1]), where=total != 0)
    voted = np.zeros((len(weights), observations))
    np.add.at(voted, (np.arange(len(weights))[:, None], labels), shares)
    return voted


def compute(settings: Settings, progress: Callable[[int], object] = lambda done: None) -> pd.DataFrame:
    """Both answers to every prompt of every model.

    Args:
        settings: See :class:`~icl_lens.studies.kernel_regression.hidden_markov.study.Settings`.
        progress: Told after each model, of which there is one for each seed, that one more is done.

    Raises:
        InputError: A kernel without clipping has weights that sum to nearly 0, so that a vote has no bounds.

    Returns:
        One row a seed, trial and n, the limit last: seed (of the model), trial, task (of the prompt), n, limit (whether the
        demonstrations are those that all prompts of the task share), distance (L1), agrees (whether both have the same
        likeliest label), correct and posterior_correct (whether it is the label that the chain emits), weightless (whether
        every kernel value is 0 after clipping), confidence (the posterior's of its likeliest label).
    """
    parts = []
    for seed in settings.seeds:
        parts.append(_of_model(settings, seed))
        progress(1)
    table = pd.concat(parts, ignore_index=True)
    if not np.isfinite(table["distance"]).all() or table["distance"].max() > _BOUND:
        raise InputError(
            "kernel values of both signs cancel, so that their quotient has no bounds; set studies.hidden_markov.clip to true"
        )
    return table


def _of_model(settings: Settings, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    model = draw_model(settings, generator)
    inverse = inverse_moment(model, settings, generator)
    length, trials, longest = settings.length, settings.trials, max(settings.demonstrations)
    tasks = generator.integers(0, settings.tasks, trials)  # (N,)
    queries = draw_sequences(model, tasks, length + 1, generator)  # (N, L + 1)
    own = draw_sequences(model, np.repeat(tasks, longest), length + 1, generator)  # (N * n, L + 1)
    everyone = np.repeat(np.arange(settings.tasks), settings.limit)
    shared = draw_sequences(model, everyone, length + 1, generator)  # (G * limit, L + 1)

    query = forward(model, queries[:, :length])
    asked = features(query) @ inverse  # (N, d)

    def read(demonstrations: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """vec(T_x), log P_g(x y) and y, with the demonstrations of one row side by side."""
        label = demonstrations[:, length]
        of_text = forward(model, demonstrations[:, :length])
        found = (features(of_text), log_next(model, of_text, label), label)
        return tuple(part.reshape(rows, -1, *part.shape[1:]) for part in found)

    vectors, evidence, labels = read(own, trials)  # (N, n, d), (N, n, G), (N, n)
    kernel = np.einsum("nd,nid->ni", asked, vectors, optimize=True)  # (N, n)
    evidence = evidence.cumsum(1)
    rows = [
        _compared(settings, model, query, queries, kernel[:, :n], labels[:, :n], evidence[:, n - 1]).assign(n=n, limit=False)
        for n in sorted(settings.demonstrations)
    ]
    vectors, evidence, labels = read(shared, settings.tasks)  # (G, limit, d), (G, limit, G), (G, limit)
    kernel = np.stack([vectors[task] @ row for task, row in zip(tasks, asked, strict=True)])  # (N, limit)
    compared = _compared(settings, model, query, queries, kernel, labels[tasks], evidence.sum(1)[tasks])
    rows.append(compared.assign(n=settings.limit, limit=True))
    found = pd.concat([part.assign(trial=np.arange(trials), task=tasks) for part in rows])
    return found.sort_values(["trial", "n"], kind="stable", ignore_index=True).assign(seed=seed)


def _compared(
    settings: Settings,
    model: Model,
    query: Read,
    queries: np.ndarray,  # (N, L + 1)
    kernel: np.ndarray,  # (N, n)
    labels: np.ndarray,  # (N, n)
    evidence: np.ndarray,  # (N, G)
) -> pd.DataFrame:
    """Both answers to N prompts with n demonstrations each."""
    weights = kernel.clip(min=0) if settings.clip else kernel
    voted = regression(weights, labels, settings.observations)  # (N, O)
    exact = posterior(model, evidence, query)  # (N, O)
    ours, best, emitted = voted.argmax(1), exact.argmax(1), queries[:, -1]
    return pd.DataFrame(
        {
            "distance": np.abs(voted - exact).sum(1),
            "agrees": ours == best,
            "correct": ours == emitted,
            "posterior_correct": best == emitted,
            "weightless": ~weights.any(1),
            "confidence": exact.max(1),
        }
    )

"""Reference implementation of the posterior and of kernel regression on a tiny hidden Markov model.

It follows the definitions with enumeration and plain loops, and shares no code with the package. Probabilities are sums over
all state paths of the merged model, and eq. 6 is two loops.
"""

from __future__ import annotations

from itertools import product

import numpy as np


def merged(transitions, emissions):
    """Return the matrices of the merged model, T (S, S) and B (S, O)."""
    tasks, block = len(transitions), len(transitions[0])
    states, tokens = tasks * block, len(emissions[0][0])
    transition, emission = np.zeros((states, states)), np.zeros((states, tokens))
    for g in range(tasks):
        for i in range(block):
            emission[g * block + i] = emissions[g][i]
            for j in range(block):
                transition[g * block + i, g * block + j] = transitions[g][i][j]
    return transition, emission


def sequence_probability(transition, emission, start, tokens) -> float:
    """Compute the probability of emitting the tokens, as a sum over all state paths that begin in ``start``."""
    total = 0.0
    for path in product(range(len(transition)), repeat=len(tokens) - 1):
        states = [start, *path]
        p = 1.0
        for t, token in enumerate(tokens):
            p *= emission[states[t], token]
            if t:
                p *= transition[states[t - 1], states[t]]
        total += p
    return total


def posterior(transitions, emissions, demonstrations, labels, query) -> np.ndarray:
    """Compute P(y | x_1 y_1 d ... x) for each label.

    It is the probability of the prompt with that label, divided by the probability of the prompt with any label.
    """
    transition, emission = merged(transitions, emissions)
    tasks, block = len(transitions), len(transitions[0])
    tokens = emission.shape[1]
    joint = np.zeros(tokens)
    for g in range(tasks):
        p = 1 / tasks
        for x, y in zip(demonstrations, labels, strict=True):  # the delimiter has probability 1 and resets the chain
            p *= sequence_probability(transition, emission, g * block, [*x, y])
        for y in range(tokens):
            joint[y] += p * sequence_probability(transition, emission, g * block, [*query, y])
    return joint / joint.sum()


def operator(transitions, emissions, sequence) -> np.ndarray:
    """Compute T_o = prod_t diag(B[:, o_t]) T of the merged model, shape (S, S)."""
    transition, emission = merged(transitions, emissions)
    found = np.eye(len(transition))
    for token in sequence:
        found = found @ np.diag(emission[:, token]) @ transition
    return found


def vec(transitions, emissions, sequence) -> list[float]:
    """Return the rows of T_o that belong to the start states, divided by the probability of the sequence.

    Only the entries in a start state's own block are kept.
    """
    tasks, block = len(transitions), len(transitions[0])
    whole = operator(transitions, emissions, sequence)
    probability = sum(whole[g * block, j] for g in range(tasks) for j in range(len(whole))) / tasks
    return [whole[g * block, g * block + j] / probability for g in range(tasks) for j in range(block)]


def inverse(vectors, ridge) -> np.ndarray:
    """Compute Sigma^-1, the inverse of the regularised second moment of vectors.

    The multiple ``ridge`` of the mean diagonal entry is added to the diagonal.
    """
    width = len(vectors[0])
    moment = np.zeros((width, width))
    for v in vectors:
        for i in range(width):
            for j in range(width):
                moment[i, j] += v[i] * v[j] / len(vectors)
    mean = sum(moment[i, i] for i in range(width)) / width
    for i in range(width):
        moment[i, i] += ridge * mean
    return np.linalg.inv(moment)


def eq_6(query, demonstrations, labels, sigma_inverse, tokens, clip=True) -> list[float]:
    """Compute sum_i e(y_i) K(x, x_i) / sum_i K(x, x_i) from given vectors."""
    weights = []
    for v in demonstrations:
        k = sum(query[i] * sigma_inverse[i, j] * v[j] for i in range(len(v)) for j in range(len(v)))
        weights.append(max(k, 0.0) if clip else k)
    voted = [0.0] * tokens
    for k, y in zip(weights, labels, strict=True):
        voted[y] += k / sum(weights) if sum(weights) else 1 / len(weights)
    return voted

"""Reference implementation of representation change from its definitions, one prompt at a time.

It shares no code with the package: it uses transformers' own eager attention and hidden states, no cache, and plain loops.
"""

from __future__ import annotations

import math

import numpy as np
import torch


def read(model, ids, query, sets) -> tuple[np.ndarray, np.ndarray]:
    """Read the states and the attention of one prompt.

    Returns:
        The mean, maximum and last of the states of the query's tokens, (3, L + 1, W), and the attention of the last token to
        each set, (S, L).
    """
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_attentions=True, output_hidden_states=True, use_cache=False)
    states = [layer[0].double().numpy() for layer in output.hidden_states]  # (T, W) each
    pooled = np.zeros((3, len(states), states[0].shape[1]))
    for number, layer in enumerate(states):
        for dimension in range(layer.shape[1]):
            values = [layer[token, dimension] for token in query]
            pooled[:, number, dimension] = sum(values) / len(values), max(values), values[-1]
    attended = np.zeros((len(sets), len(output.attentions)))
    for layer, matrix in enumerate(output.attentions):
        for number, tokens in enumerate(sets):
            if len(tokens):
                each = [float(head[-1, token]) for head in matrix[0] for token in tokens]
                attended[number, layer] = sum(each) / len(each)
    return pooled, attended


def greedy(model, ids, tokens) -> list[int]:
    """Generate tokens greedily, reading the full sequence again for each token."""
    ids = list(ids)
    for _ in range(tokens):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[-tokens:]


def log_likelihood(model, ids, answer) -> float:
    """Sum the log-probabilities of the answer's tokens."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*ids, *answer]]), use_cache=False).logits[0].double()
    return sum(float(logits[len(ids) + i - 1].log_softmax(-1)[token]) for i, token in enumerate(answer))


def cosines(vectors) -> np.ndarray:
    """Compute the cosine of each pair of rows after standardising each column, (P, P)."""
    vectors = np.array(vectors, dtype=float)
    for column in range(vectors.shape[1]):
        values = vectors[:, column]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        vectors[:, column] = (values - mean) / spread if spread > 1e-9 else 0
    return np.array([[float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for b in vectors] for a in vectors])


def ranks(values) -> list[float]:
    """Return ranks from 1; equal values share their mean rank."""
    return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]


def pearson(first, second) -> float:
    """Compute Pearson's correlation coefficient."""
    a, b = sum(first) / len(first), sum(second) / len(second)
    shared = sum((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    return shared / math.sqrt(sum((x - a) ** 2 for x in first) * sum((y - b) ** 2 for y in second))


def alignment(similarity, hypothesis) -> float:
    """Compute Spearman's correlation of the entries of two matrices above the diagonal."""
    pairs = [(i, j) for i in range(len(similarity)) for j in range(i + 1, len(similarity))]
    return pearson(ranks([similarity[i][j] for i, j in pairs]), ranks([hypothesis[i][j] for i, j in pairs]))


def linear_cka(first, second) -> float:
    """Compute ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred columns."""
    x, y = (np.array(m, dtype=float) - np.mean(m, 0) for m in (first, second))
    return float(np.sum((y.T @ x) ** 2) / math.sqrt(np.sum((x.T @ x) ** 2) * np.sum((y.T @ y) ** 2)))


def probe(fitted, classes, tested, weight) -> list[int]:
    """Predict the class of each tested vector by logistic regression on the fitted ones.

    Both are standardised by the mean and the standard deviation of the fitted vectors. The loss, whose minimum Newton's method
    finds, is

        |w|^2 / 2 - weight * sum_i log p(class_i | x_i)

    with p(1 | x) = 1 / (1 + exp(-w x - b)) for two classes and p(k | x) proportional to exp(w_k x + b_k) for more. The
    intercepts have no penalty.
    """
    columns = range(len(fitted[0]))
    means = [sum(v[c] for v in fitted) / len(fitted) for c in columns]
    spreads = [math.sqrt(sum((v[c] - means[c]) ** 2 for v in fitted) / len(fitted)) for c in columns]

    def standardise(vectors):
        return np.array(
            [[(v[c] - means[c]) / spreads[c] if spreads[c] > 1e-9 else 0.0 for c in columns] + [1.0] for v in vectors]
        )

    x, kinds = standardise(fitted), sorted(set(classes))
    y = np.array([[float(c == kind) for kind in kinds] for c in classes])
    free = [1] if len(kinds) == 2 else range(len(kinds))  # two classes have one vector of weights; the other is zero
    width = x.shape[1]
    penalty = np.diag([1.0] * (width - 1) + [0.0])
    weights = np.zeros((len(kinds), width))

    def probabilities(vectors):
        outputs = np.exp(vectors @ weights.T)
        return outputs / outputs.sum(1, keepdims=True)

    for _ in range(50):
        p = probabilities(x)
        gradient = [weight * (p - y)[:, k] @ x + penalty @ weights[k] for k in free]
        second = [
            [weight * (x.T * (p[:, k] * (float(k == other) - p[:, other]))) @ x + (k == other) * penalty for other in free]
            for k in free
        ]
        step = np.linalg.lstsq(np.block(second), np.concatenate(gradient), rcond=None)[0]  # equal intercepts change nothing
        for number, k in enumerate(free):
            weights[k] -= step[number * width : (number + 1) * width]
    return [kinds[int(np.argmax(row))] for row in probabilities(standardise(tested))]

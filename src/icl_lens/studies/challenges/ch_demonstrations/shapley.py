"""Shapley values of a game, exact from all coalitions or sampled from antithetic permutations.

With v(S) the value of a coalition S of the n players,

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))                    (Shapley, 1953)

that is, the mean, over all orders of the players, of the change of v when i is added to the players before it. The sum of all
phi_i is v(all) - v(empty). A sample consists of pairs of an order and its reverse (antithetic), because each player has
opposite places in the two. Its standard error is that of the mean over pairs. The sum is exact for each sampled order, and
therefore for the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import NamedTuple

import numpy as np

Coalition = tuple[int, ...]
"""Players in ascending order."""


class Plan(NamedTuple):
    """Coalitions of a game that determine its Shapley values.

    Attributes:
        players: Number of players, n.
        orders: Sampled orders, shape (2 P, n): P orders, then the reverse of each. None if all coalitions are used.
        coalitions: All coalitions whose values are needed, including those of :func:`leave_one_out`.
    """

    players: int
    orders: np.ndarray | None
    coalitions: list[Coalition]


class Values(NamedTuple):
    """Shapley values of the n players.

    Attributes:
        phi: The values, shape (n,).
        error: Their standard errors, shape (n,); 0 if they are exact.
    """

    phi: np.ndarray
    error: np.ndarray


def plan(players: int, exact: int, pairs: int, key: Sequence[int]) -> Plan:
    """Choose the coalitions of a game.

    Args:
        players: Number of players.
        exact: Largest number of players for which all coalitions are used.
        pairs: Number of pairs of orders otherwise, at least 2.
        key: Key of the random numbers.
    """
    if players <= exact:
        return Plan(players, None, [s for size in range(players + 1) for s in combinations(range(players), size)])
    generator = np.random.default_rng(key)
    drawn = np.stack([generator.permutation(players) for _ in range(pairs)])  # (P, n)
    orders = np.concatenate([drawn, drawn[:, ::-1]])  # (2 P, n)
    found = {tuple(sorted(order[:size])) for order in orders.tolist() for size in range(players + 1)}
    found |= {_without(players, i) for i in range(players)}
    return Plan(players, orders, sorted(found))


def shapley(plan: Plan, values: Mapping[Coalition, float]) -> Values:
    """Compute the Shapley values.

    Args:
        plan: The plan of the game.
        values: v(S) of each coalition of the plan.
    """
    n = plan.players
    if plan.orders is None:
        weights = [factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)]
        phi = np.zeros(n)
        for s in plan.coalitions:
            for i in set(range(n)) - set(s):
                phi[i] += weights[len(s)] * (values[tuple(sorted((*s, i)))] - values[s])
        return Values(phi, np.zeros(n))
    added = np.zeros(plan.orders.shape)  # (2 P, n)
    for row, order in enumerate(plan.orders.tolist()):
        reached = [values[tuple(sorted(order[:size]))] for size in range(n + 1)]
        added[row, order] = np.diff(reached)
    pairs = added.reshape(2, -1, n).mean(0)  # (P, n)
    return Values(pairs.mean(0), pairs.std(0, ddof=1) / np.sqrt(len(pairs)))


def leave_one_out(plan: Plan, values: Mapping[Coalition, float]) -> np.ndarray:
    """Compute v(all) - v(all without i) of each player i, shape (n,)."""
    whole = values[tuple(range(plan.players))]
    return np.array([whole - values[_without(plan.players, i)] for i in range(plan.players)])


def _without(players: int, player: int) -> Coalition:
    return tuple(i for i in range(players) if i != player)

"""Lineage graph of a run, from its texts to its figures and tables.

A run has too many files to draw individually, so each node groups the files of one kind: the texts of a task, a prompt set, a
study or an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import altair
import numpy as np
import pandas as pd
import vl_convert

# Distance between two nodes of the longest column and between two columns, in points.
_ROW, _COLUMN = 15, 230


class Node(NamedTuple):
    """A group of files of one kind.

    Attributes:
        stage: Top-level folder of the files in the results folder; ``items`` for figures and tables.
        name: Common name of the files: a task, a prompt set, a study or an item.
    """

    stage: str
    name: str


def node_of(path: str) -> Node:
    """Return the node of a file in the results folder.

    Texts are grouped by task, prompts by prompt set and all other files by their own name.
    """
    parts = PurePosixPath(path)
    return Node(parts.parts[0], parts.stem)


def edges(chains: Mapping[str, Sequence[tuple[int, str]]]) -> list[tuple[Node, Node]]:
    """Return the edges of the graph as (source, target) pairs, without duplicates and in order of first appearance.

    Args:
        chains: For each item, the files from which it was made, each with its level. The item reads the files of level 0. A
            file of level n + 1 is read by the closest preceding file of level n.
    """
    found: dict[tuple[Node, Node], None] = {}
    for item, chain in chains.items():
        parents = [Node("items", item)]
        for level, path in chain:
            node = node_of(path)
            parents[level + 1 :] = [node]
            found[node, parents[level]] = None
    return list(found)


def columns(pairs: Sequence[tuple[Node, Node]], items: Sequence[str]) -> list[list[Node]]:
    """Arrange the nodes in columns so that each edge goes to the right. The items form the last column, in the given order.

    Each node is placed as far right as its targets allow. Within a column, nodes are sorted by the mean position of their
    targets, which reduces the number of crossing lines.
    """
    distance: dict[Node, int] = {Node("items", name): 0 for name in items}
    targets: dict[Node, list[Node]] = {}
    for source, target in pairs:
        targets.setdefault(source, []).append(target)

    def set_distance(node: Node) -> int:
        if node not in distance:
            distance[node] = 1 + max(set_distance(target) for target in targets[node])
        return distance[node]

    for node in targets:
        set_distance(node)
    found: list[list[Node]] = []
    places: dict[Node, float] = {}
    for step in range(max(distance.values(), default=0) + 1):
        column_nodes = [node for node in distance if distance[node] == step]
        if step:
            column_nodes.sort(key=lambda node: (float(np.mean([places[target] for target in targets[node]])), node))
        places |= {node: (number + 0.5) / len(column_nodes) for number, node in enumerate(column_nodes)}
        found.insert(0, column_nodes)
    return found


def svg(pairs: Sequence[tuple[Node, Node]], items: Sequence[str]) -> str:
    """Draw the graph as an SVG picture."""
    grid = columns(pairs, items)
    height = _ROW * max(len(column) for column in grid)
    positions = {
        node: (number * _COLUMN, height * (place + 0.5) / len(column))
        for number, column in enumerate(grid)
        for place, node in enumerate(column)
    }
    nodes = pd.DataFrame([{"name": node.name.replace("_", " "), "x": x, "y": y} for node, (x, y) in positions.items()])
    lines = pd.DataFrame(
        # A line begins after the name of its source.
        [
            {"x": positions[a][0] + 6 * len(a.name) + 8, "y": positions[a][1], "x2": positions[b][0] - 4, "y2": positions[b][1]}
            for a, b in pairs
        ],
        columns=["x", "y", "x2", "y2"],
    )
    width = _COLUMN * len(grid)
    x_axis = altair.X("x:Q", axis=None, scale=altair.Scale(domain=[0, width], nice=False))
    y_axis = altair.Y("y:Q", axis=None, scale=altair.Scale(domain=[height, 0], nice=False))
    drawn = altair.Chart(lines).mark_rule(color="#7f7f7f", opacity=0.45).encode(x=x_axis, y=y_axis, x2="x2:Q", y2="y2:Q")
    labels = altair.Chart(nodes).mark_text(align="left", fontSize=11).encode(x=x_axis, y=y_axis, text="name:N")
    chart = (drawn + labels).properties(width=width, height=height).configure_view(stroke=None)
    return vl_convert.vegalite_to_svg(chart.to_dict())


def in_words(pairs: Sequence[tuple[Node, Node]], items: Sequence[str]) -> str:
    """Describe the graph as alternative text: the number of nodes per stage, and the studies that each item reads."""
    counts = pd.Series([node.stage for column in columns(pairs, items) for node in column]).value_counts(sort=False)
    read: dict[str, list[str]] = {}
    for source, target in pairs:
        if target.stage == "items":
            read.setdefault(target.name, []).append(source.name)
    node_counts = ", ".join(f"{count} {stage}" for stage, count in counts.items())
    return (
        f"Lineage graph with these numbers of nodes: {node_counts}. "
        + "; ".join(f"{item} from {', '.join(names)}" for item, names in read.items())
        + "."
    )

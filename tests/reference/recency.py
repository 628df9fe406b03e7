"""Attention of a prompt's last position to each demonstration, from the definition in examples/recency/compute.py.

It shares nothing with the package: one prompt at a time, transformers' own eager attention and returned matrices, and spans
found token by token from the prompts table's own characters.
"""

from __future__ import annotations

import torch


def demonstration_tokens(row, offsets, before, first_token):
    """The positions of each demonstration's tokens.

    Args:
        row: A row of a prompts table; its demonstrations begin with a template's piece.
        offsets: [start, end) characters of each token of the text.
        before: How many tokens the model reads before the text.
        first_token: Whether position 0 counts.
    """
    count = len(row["demo_labels"])
    pieces = len(row["prefix_spans"]) // (count + 1)
    found = []
    for number in range(count):
        start = row["prefix_spans"][number * pieces][0]
        end = row["label_spans"][number][1]
        places = [place + before for place, (_, stop) in enumerate(offsets) if start < stop <= end]
        found.append([place for place in places if place > 0 or first_token])
    return found


def attention_to_places(model, ids, demonstrations):
    """The mean over heads of the attention to each demonstration, as [layer][place]."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    q = len(ids) - 1
    result = []
    for matrix in attentions:
        heads = matrix[0].tolist()
        result.append([sum(head[q][t] for head in heads for t in tokens) / len(heads) for tokens in demonstrations])
    return result


def shares(attention, layer):
    """The share of each place: means over prompts, divided by their sum.

    Args:
        attention: [prompt][layer][place].
        layer: Which.
    """
    places = range(len(attention[0][layer]))
    means = [sum(prompt[layer][place] for prompt in attention) / len(attention) for place in places]
    return [mean / sum(means) for mean in means]

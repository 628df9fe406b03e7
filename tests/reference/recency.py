"""Reference implementation of attention to each demonstration, from the definition in examples/recency/compute.py.

The attention is that of a prompt's last position. The module shares no code with the package: it uses one prompt at a time, the
attention matrices that transformers' own eager attention returns, and spans that are found token by token from the characters
in the prompts table.
"""

from __future__ import annotations

import torch


def demonstration_tokens(row, offsets, before, first_token):
    """Find the positions of each demonstration's tokens.

    Args:
        row: Row of a prompts table. Its demonstrations begin with a piece of the template.
        offsets: [start, end) characters of each token of the text.
        before: Number of tokens that the model reads before the text.
        first_token: Whether to include position 0.
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
    """Compute the mean over heads of the attention to each demonstration, as [layer][place]."""
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
    """Compute the share of each place: means over prompts, divided by their sum.

    Args:
        attention: [prompt][layer][place].
        layer: Index of the layer.
    """
    places = range(len(attention[0][layer]))
    means = [sum(prompt[layer][place] for prompt in attention) / len(attention) for place in places]
    return [mean / sum(means) for mean in means]

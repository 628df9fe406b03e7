"""Attributions of the loss to attention edges, and the effect of cutting the edges.

A is the attention of a layer after the softmax, z its product with the values, L the loss, and X a class of edges
(:mod:`icl_lens.studies.challenges.ch_saliency.edge_classes`). For each prompt, layer and class:

    attention        sum over X of mean_h A
    value_zeroing    sum over X of d_ij / sum_j d_ij, where d_ij is the cosine distance between the output of the layer at row i
                     and the same output with the value of position j set to 0, in all heads, with the same attention and the
                     same input of the layer (Mohebbi et al., arXiv 2301.12971, and their code, for encoders)
    abs_of_sum       sum over X of |sum_h A dL/dA|               (*Label Words are Anchors*, eq. 1; S is the mean over X)
    sum_of_abs       sum over X of sum_h |A dL/dA|               (a footnote of the same paper says that it is similar)
    largest_head     largest of the heads' sums over X of |A dL/dA|
    signed           - sum over X of sum_h A dL/dA               first-order forecast of truth_post
    ig               sum over X of sum_h A (1/M) sum_k dL/dA at ((k - 0.5)/M) A, k = 1, ..., M: the attention of this layer is
                     scaled, and later layers are recomputed (Hao et al., arXiv 2004.11207; their code uses M = 64 and the
                     points k/M for k < M, and the probability of the predicted class). Its forecast of truth_post is -ig.
    truth_post       L with A := 0 on X, without renormalisation, minus L: what A dL/dA approximates
    truth_pre        L with the scores of X masked before the softmax, minus L: what isolation and edge cuts do. The diagonal is
                     never masked.

``before`` is L without a cut. The class ``layer`` contains all edges of the layer, including the diagonal. The completeness
error of ig is |ig + truth_post| / max(|truth_post|, 1e-6) for this class.

L is the loss of the gold label, or of the model's own answer. The same quantities are computed with the margin m in place of
the loss (:mod:`icl_lens.studies.challenges.margin`), because the gradient of the loss vanishes for confident answers:

    dL/dA = - sigma(-m) dm/dA

Per head, summed over X: ``heads`` is sum |A dL/dA|. For the class ``layer`` also

    heads_michel     sum_t |z_t . dL/dz_t|    (Michel et al., arXiv 1905.10650; without the division by the layer's L2 norm)
    heads_signed     - sum_t z_t . dL/dz_t
    heads_ig         as ig
    heads_truth      L with z := 0 in this head, minus L

Deviations: value zeroing was defined for encoders; here a row has only the columns up to its own. The last layer's output is
taken before the final norm. The released code of Hao et al. scores a head by its largest edge, which is not used here.

The scores of the classes are the logits of the first tokens of their label words or, with ``label_score: whole``, the
log-probabilities of the words. Then a layer also has the edges to appended tokens, in the classes of
:mod:`icl_lens.studies.challenges.ch_saliency.edge_classes`. An edge that several paths share, such as each edge between tokens
of the prompt, is one edge: it is cut in all paths, and its dL/dA is the sum over the paths. For the sums over t of a head, an
appended token that several label words share is likewise one position.

*How it is computed.* A changes L only through z. With the values V and the gradient G = dL/dz, dL/dA = G V'. A cut is another z
at the rows of X, and integrated gradients need only the mean of G over the points z (k - 0.5)/M, because A and V do not change.
All of these runs start at the layer and at the first changed row (:mod:`icl_lens.studies.challenges.ch_saliency.reruns`).
N is the number of tokens, including each appended token once (:mod:`icl_lens.studies.challenges.ch_saliency.token_tree`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from icl_lens.attention.head_outputs import Heads, head_outputs
from icl_lens.attention.supported import require_supported
from icl_lens.attention.visible import visible_positions
from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.network.precision import at_least_float32
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.studies.challenges.ch_saliency.edge_classes import EdgeClass, existing_classes, find_classes
from icl_lens.studies.challenges.ch_saliency.names import ANSWERS, LAYER, QUANTITIES
from icl_lens.studies.challenges.ch_saliency.reruns import Reruns
from icl_lens.studies.challenges.ch_saliency.study import Settings
from icl_lens.studies.challenges.margin import loss, margin
from icl_lens.studies.inputs import Given, Inputs, of_tables

CASES = [(answer, quantity) for answer in ANSWERS for quantity in QUANTITIES]
"""What is attributed, in the order of the rows."""


def prepare(given: Given) -> Inputs:
    """Return the first prompts of each seed that fit the model's context.

    Raises:
        InputError: No prompt fits.
    """
    return of_tables(given, {"prompts": given.table.groupby("seed").head(given.settings.queries)})


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Compute attributions and effects of cuts for each prompt, layer and class of edges.

    Args:
        model, prompts, batch_tokens, progress, settings: Arguments common to all studies, see :mod:`icl_lens.studies.study`.

    Raises:
        InputError: A prompt has no demonstrations, the model's family is not supported, or the range of its number format is
            too small.

    Returns:
        One row per prompt, layer, class of edges, answer and quantity, in this order, with the columns of the module's
        docstring. A class without edges in a layer has no row. ``control`` marks the random counterpart of a class. ``count``
        is the number of edges.
    """
    settings = settings or Settings()
    classes = [find_classes(prompt) for prompt in prompts]
    require_supported(model.network)
    visible = _visible(model, max(len(prompt.ids) + prompt.appended for prompt in prompts))
    model.supports_single_row, model.last_row_mode, model.can_resume  # noqa: B018 - run these checks before a context is open
    tables = []
    with head_outputs(model.network) as edit:
        for prompt, of_prompt in zip(prompts, classes, strict=True):
            of_layers = _classes_of_layers(prompt, of_prompt, visible, settings)
            if prompt.needed:
                reruns = Reruns(model, prompt, edit, batch_tokens)
                found = [_layer(reruns, layer, existing, prompt, settings) for layer, existing in enumerate(of_layers)]
                progress(1)
            else:
                found = [_placeholder(existing, model) for existing in of_layers]
            tables += [table.assign(prompt_id=prompt.prompt_id, layer=layer) for layer, table in enumerate(found)]
    rows = pd.concat(tables, ignore_index=True)
    _require_finite(model, rows)
    return rows


def _visible(model: LanguageModel, length: int) -> list[np.ndarray | None]:
    """Return the positions that each position can attend to in each layer, see :func:`visible_positions`."""
    masks = visible_positions(model.network, length) or [None] * model.layers
    arrays = {id(mask): None if mask is None else mask.numpy() for mask in masks}
    return [arrays[id(mask)] for mask in masks]


def _classes_of_layers(
    prompt: TokenizedPrompt, classes: dict[str, np.ndarray], visible: Sequence[np.ndarray | None], settings: Settings
) -> list[list[EdgeClass]]:
    """Return the classes that exist in each layer. Layers with the same mask share them."""
    seed = settings.seed if settings.random else None
    found = {id(mask): existing_classes(prompt, classes, mask, seed) for mask in {id(mask): mask for mask in visible}.values()}
    return [found[id(mask)] for mask in visible]


class _Gradients(NamedTuple):
    """Gradients of a margin with respect to z at the N nodes, shape (H, N, e) each.

    Attributes:
        plain: At z.
        of_margin: Mean over the points of the integral.
        of_loss: The same for the loss.
    """

    plain: Tensor
    of_margin: Tensor
    of_loss: Tensor


def _layer(reruns: Reruns, layer: int, classes: list[EdgeClass], prompt: TokenizedPrompt, settings: Settings) -> pd.DataFrame:
    """Return the rows of one prompt and layer, without prompt_id and layer."""
    heads = reruns.heads[layer]
    weights = heads.scores()[0].softmax(-1)  # (H, N, N)
    own = int(reruns.scores.argmax())
    answers = list(dict.fromkeys([prompt.gold, own]))  # both, or one if they are equal
    before = _values(reruns.scores[None], answers)[0]  # (answers, 2)
    gradients = integrate(reruns, layer, answers, settings.steps)
    maps, parts = _maps(heads, weights, gradients)  # (F, N, N)
    maps = torch.cat([weights.mean(0)[None], zeroed_values(reruns, layer, weights)[None].to(weights.device), maps])
    sums = _sums(maps, classes)  # (classes, F)
    after = _cuts(reruns, layer, weights, classes, answers)  # (classes, 2, answers, 2)
    count = [int(each.edges.sum()) for each in classes]
    after_heads = _head_cuts(reruns, layer, answers)  # (H, answers, 2)
    z = at_least_float32(heads.outputs[0])  # (H, N, e)
    rows = []
    for answer, quantity in CASES:
        number, of_margin = answers.index(prompt.gold if answer == "gold" else own), quantity == "margin"
        slope = 1.0 if of_margin else -float(torch.sigmoid(-torch.tensor(before[number, 1], dtype=torch.float64)))
        of = sums[:, 2 + number * parts : 2 + (number + 1) * parts]  # (classes, parts)
        gradient = gradients[number]
        integral = gradient.of_margin if of_margin else gradient.of_loss  # (H, N, e)
        products = ((z * gradient.plain).sum(-1) * slope).cpu().double()  # (H, N)
        of_heads = {
            "heads_michel": products.abs().sum(-1),
            "heads_signed": -products.sum(-1),
            "heads_ig": (z * integral).sum((1, 2)).cpu().double(),
            "heads_truth": torch.from_numpy(after_heads[:, number, int(of_margin)] - before[number, int(of_margin)]),
        }
        per_head = np.abs(slope) * of[:, 4:]  # (classes, H)
        for i, each in enumerate(classes):
            truth = after[i, :, number, int(of_margin)] - before[number, int(of_margin)]  # (2,)
            rows.append(
                {
                    "edges": each.name,
                    "control": each.control,
                    "answer": answer,
                    "quantity": quantity,
                    "count": count[i],
                    "before": before[number, int(of_margin)],
                    "attention": sums[i, 0],
                    "value_zeroing": sums[i, 1],
                    "abs_of_sum": abs(slope) * of[i, 0],
                    "sum_of_abs": per_head[i].sum(),
                    "largest_head": per_head[i].max(),
                    "signed": -slope * of[i, 1],
                    "ig": of[i, 2 if of_margin else 3],
                    "truth_post": truth[0],
                    "truth_pre": truth[1],
                    "heads": per_head[i].tolist(),
                    **{name: values.tolist() if each.name == LAYER else [] for name, values in of_heads.items()},
                }
            )
    return _sorted(pd.DataFrame(rows), classes)


def _sorted(rows: pd.DataFrame, classes: list[EdgeClass]) -> pd.DataFrame:
    """Sort rows by class of edges, then by answer and quantity."""
    order = np.arange(len(rows)).reshape(len(CASES), len(classes)).T.ravel()
    return rows.iloc[order].reset_index(drop=True)


def _placeholder(classes: list[EdgeClass], model: LanguageModel) -> pd.DataFrame:
    """Return rows of a prompt that is not needed, with the same keys."""
    rows: list[dict[str, Any]] = [
        {
            "edges": each.name,
            "control": each.control,
            "answer": answer,
            "quantity": quantity,
            "count": int(each.edges.sum()),
            **dict.fromkeys(_NUMBERS, 0.0),
            **{name: [] for name in _LISTS},
        }
        for each in classes
        for answer, quantity in CASES
    ]
    return pd.DataFrame(rows)


_NUMBERS = (
    "before",
    "attention",
    "value_zeroing",
    "abs_of_sum",
    "sum_of_abs",
    "largest_head",
    "signed",
    "ig",
    "truth_post",
    "truth_pre",
)
_LISTS = ("heads", "heads_michel", "heads_signed", "heads_ig", "heads_truth")


def integrate(reruns: Reruns, layer: int, answers: Sequence[int], steps: int, base: Tensor | None = None) -> list[_Gradients]:
    """Return the gradients of the margins of some classes with respect to z, at z and integrated along a straight path to z.

    Args:
        reruns: The plain run of a prompt.
        layer: The layer.
        answers: Class indices.
        steps: Number of points, M: base + (k - 0.5)/M (z - base).
        base: Start of the path, shape (H, N, e); zeros by default.

    Returns:
        The gradients for each class index.
    """
    z = at_least_float32(reruns.heads[layer].outputs)  # (1, H, N, e)
    start = reruns.first_row(layer, 0)
    share = torch.cat([(torch.arange(steps) + 0.5) / steps, torch.ones(1)]).to(z.device)[
        :, None, None, None
    ]  # (M + 1, 1, 1, 1)
    origin = torch.zeros_like(z) if base is None else base[None]  # (1, H, N, e)
    points = (origin + share * (z - origin))[:, :, start:]  # (M + 1, H, N - start, e)
    found = [_Gradients(*(torch.zeros_like(z[0]) for _ in range(3))) for _ in answers]
    # The margins of two classes are the negatives of each other, so one backward pass is enough.
    opposite = len(reruns.scores) == 2 == len(answers)

    def margins(scores: Tensor) -> list[Tensor]:
        return [margin(scores, torch.full((len(scores),), y, device=scores.device)) for y in answers]

    def differentiated(scores: Tensor) -> list[Tensor]:
        return margins(scores)[:1] if opposite else margins(scores)

    def add(part: slice, scores: Tensor, *gradients: Tensor) -> None:
        if opposite:
            gradients = (gradients[0], -gradients[0])
        for of_answer, values, gradient in zip(found, margins(scores), gradients, strict=True):
            gradient = at_least_float32(gradient)  # (n, H, N - start, e)
            slope = -torch.sigmoid(-values).to(gradient.device)[:, None, None, None]  # (n, 1, 1, 1): dL/dm
            of_points = min(part.stop, steps) - part.start  # the last row is z itself
            of_answer.of_margin[:, start:] += gradient[:of_points].sum(0) / steps
            of_answer.of_loss[:, start:] += (slope * gradient)[:of_points].sum(0) / steps
            if part.stop == steps + 1:
                of_answer.plain[:, start:] = gradient[-1]

    reruns.differentiate(layer, points, differentiated, add)
    return found


def _maps(heads: Heads, weights: Tensor, gradients: Sequence[_Gradients]) -> tuple[Tensor, int]:
    """Return the contributions of each edge to the attributions that are linear in G, for each answer in turn.

    Returns:
        Maps, shape (answers * (4 + H), N, N): of each answer |sum_h A dm/dA|, sum_h A dm/dA, its integral for the margin and
        for the loss, and |A dm/dA| of each head; and the number of maps per answer.
    """
    columns = heads.values()[0].transpose(-1, -2)  # (H, e, N)
    maps = []
    for gradient in gradients:
        product = weights * (gradient.plain @ columns)  # (H, N, N): A dm/dA
        of_margin, of_loss = ((weights * (each @ columns)).sum(0) for each in (gradient.of_margin, gradient.of_loss))  # (N, N)
        total = product.sum(0)  # (N, N)
        maps += [total.abs()[None], total[None], of_margin[None], of_loss[None], product.abs()]
    return torch.cat(maps), 4 + len(weights)


def _sums(maps: Tensor, classes: Sequence[EdgeClass]) -> np.ndarray:
    """Sum maps, shape (F, N, N), over the edges of each class, in float64 on the CPU, shape (classes, F)."""
    edges = [np.flatnonzero(each.edges) for each in classes]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in edges])])
    places = np.concatenate(edges)
    selection = csr_array((np.ones(len(places)), places, starts), shape=(len(classes), maps[0].numel()))
    # One map at a time, because float64 takes twice the memory.
    return np.stack([selection @ each.flatten().cpu().double().numpy() for each in maps], 1)


def zeroed_values(reruns: Reruns, layer: int, weights: Tensor) -> Tensor:
    """Return the scores of value zeroing of a layer, at least float32, shape (N, N). Each row sums to 1, or is 0.

    Args:
        reruns: The plain run of a prompt.
        layer: The layer.
        weights: A, shape (H, N, N).
    """
    heads, plain = reruns.heads[layer], at_least_float32(reruns.plain_output(layer))  # (N, D)
    z, values = at_least_float32(heads.outputs[0]), heads.values()[0]  # (H, N, e) each
    rows, columns = (weights != 0).any(0).nonzero(as_tuple=True)  # (R,) each

    def without(part: slice) -> Tensor:
        i, j = rows[part], columns[part]
        return (z[:, i] - weights[:, i, j, None] * values[:, j]).transpose(0, 1)  # (n, H, e)

    changed = at_least_float32(reruns.layer_outputs(layer, rows.cpu(), without))  # (R, D)
    one, other = (nn.functional.normalize(x, dim=-1) for x in (changed, plain[rows.to(plain.device)].to(changed.device)))
    # 1 - cos, without the cancellation of this difference for small distances.
    distance = (one - other).square().sum(-1) / 2  # (R,)
    scores = distance.new_zeros(weights.shape[1:])  # (N, N)
    scores[rows.to(scores.device), columns.to(scores.device)] = distance
    total = scores.sum(-1, keepdim=True)  # (N, 1)
    return torch.where(total > 0, scores / total, 0.0)


def _cuts(reruns: Reruns, layer: int, weights: Tensor, classes: Sequence[EdgeClass], answers: Sequence[int]) -> np.ndarray:
    """Return the loss and the margin of each answer with each class cut, shape (classes, 2, answers, 2).

    The second axis is the way of cutting: weights set to 0, scores masked.
    """
    found = np.empty((len(classes), 2, len(answers), 2))
    found[:] = _values(reruns.scores[None], answers)[0]
    first = {i: int(each.edges.any(1).argmax()) for i, each in enumerate(classes)}
    last = {i: reruns.length - 1 - int(each.edges.any(1)[::-1].argmax()) for i, each in enumerate(classes)}
    # Runs that start at about the same row share a batch.
    named = {each.name: first[i] for i, each in enumerate(classes) if not each.control}
    starts = sorted({0, named.get("wp", 0), min((row for name, row in named.items() if name.startswith("query")), default=0)})
    starts = sorted({*starts, reruns.length - 1})
    members: dict[int, list[int]] = {}
    for i in range(len(classes)):
        start = reruns.first_row(layer, max(row for row in starts if row <= first[i]))
        if last[i] >= start:  # otherwise, the cut changes no row on which the scores depend
            members.setdefault(start, []).append(i)
    heads = reruns.heads[layer]
    scores = heads.scores()[0]  # (H, N, N)
    values = heads.values()[0]  # (H, N, e)
    diagonal = torch.eye(reruns.length, dtype=torch.bool, device=weights.device)  # (N, N)
    for start, index in members.items():
        edges = torch.from_numpy(np.stack([classes[i].edges[start:] for i in index])).to(weights.device)  # (n, N - start, N)
        masked = edges & ~diagonal[start:]  # (n, N - start, N)

        def outputs(part: slice, start=start, edges=edges, masked=masked) -> Tensor:
            count = len(edges)
            zero, mask = edges[part], masked[max(0, part.start - count) : max(0, part.stop - count)]
            after = [cut_outputs(weights[:, start:], values, zero)] if len(zero) else []
            if len(mask):
                remaining = scores[:, start:].masked_fill(mask[:, None], torch.finfo(scores.dtype).min)  # (n, H, Q, N)
                after.append(remaining.softmax(-1) @ values)
            return torch.cat(after)  # (n, H, Q, e)

        after_cut = reruns.run(layer, start, 2 * len(index), outputs)  # (2 n, C)
        found[index] = _values(after_cut, answers).reshape(2, len(index), len(answers), 2).swapaxes(0, 1)
    return found


def cut_outputs(weights: Tensor, values: Tensor, edges: Tensor) -> Tensor:
    """Return z with the weights of some edges set to 0, without renormalisation.

    Args:
        weights: A at some rows, shape (H, Q, N).
        values: Values of each head, shape (H, N, e).
        edges: True where the weight becomes 0, shape (n, Q, N).

    Returns:
        z, shape (n, H, Q, e).
    """
    return (weights * ~edges[:, None]) @ values


def _head_cuts(reruns: Reruns, layer: int, answers: Sequence[int]) -> np.ndarray:
    """Return the loss and the margin of each answer with z := 0 in each head, shape (H, answers, 2)."""
    start = reruns.first_row(layer, 0)
    z = reruns.heads[layer].outputs[0, :, start:]  # (H, Q, e)
    kept = ~torch.eye(len(z), dtype=torch.bool, device=z.device)  # (H, H)
    return _values(reruns.run(layer, start, len(z), lambda part: z * kept[part, :, None, None]), answers)


def _values(scores: Tensor, answers: Sequence[int]) -> np.ndarray:
    """Return the loss and the margin of some classes, float64, shape (n, answers, 2).

    Args:
        scores: Scores of the classes, shape (n, C).
        answers: Class indices.
    """
    wide = scores.cpu().double()  # some devices lack float64
    margins = torch.stack([margin(wide, torch.full((len(wide),), y)) for y in answers], 1)  # (n, answers)
    return torch.stack([loss(margins), margins], -1).numpy()


def _require_finite(model: LanguageModel, rows: pd.DataFrame) -> None:
    """Check that all results are within the range of the model's number format.

    Raises:
        InputError: A prompt has a non-finite result.
    """
    finite = np.isfinite(rows[list(_NUMBERS)].to_numpy()).all(1)
    if not finite.all():
        of_prompts = rows.loc[~finite, "prompt_id"].unique()
        form = str(model.network.dtype).removeprefix("torch.")
        raise InputError(
            f"attributions or effects of cuts of {len(of_prompts)} of {rows['prompt_id'].nunique()} prompts (for example "
            f"prompt {of_prompts[0]}) exceed the range of {form}; set dtype to float32"
        )

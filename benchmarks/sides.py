"""The two sides of each row of the table: a study of icl-lens and the plain reference of tests/reference on the same prompts.

Each function returns an array with one row per prompt. The arrays of both sides are equal up to rounding. The plain side runs
one prompt at a time with eager attention, as the released scripts do.
"""

from __future__ import annotations

from dataclasses import dataclass

import contest  # noqa: F401 - must be first: it makes the references importable
import numpy as np
import pandas as pd
import torch

from icl_lens.prompts.positions import TokenizedPrompt, tokenize
from icl_lens.statistics.attention_auc import attention_scores
from icl_lens.studies.anchors import compressed_demonstrations
from icl_lens.studies.anchors.compression import compute as compression
from icl_lens.studies.anchors.compression.study import OWN
from icl_lens.studies.anchors.compression.study import Condition as Compressed
from icl_lens.studies.anchors.compression.study import Settings as Compression
from icl_lens.studies.anchors.compression.study import conditions as compressions
from icl_lens.studies.anchors.deep_attention import compute as deep_attention
from icl_lens.studies.anchors.isolated_positions import fixed_positions, random_positions
from icl_lens.studies.anchors.isolating import Settings as Isolation
from icl_lens.studies.anchors.isolating import conditions as isolations
from icl_lens.studies.anchors.isolation import compute as isolation
from icl_lens.studies.anchors.reweighting import compute as reweighting
from icl_lens.studies.anchors.reweighting.study import Settings as Reweighting
from icl_lens.studies.anchors.saliency import compute as saliency
from icl_lens.studies.challenges.ch_demonstrations import compute as demonstrations
from icl_lens.studies.challenges.ch_demonstrations import shapley, trees
from icl_lens.studies.challenges.ch_demonstrations.study import PLAIN
from icl_lens.studies.challenges.ch_demonstrations.study import Settings as Demonstrations
from icl_lens.studies.challenges.ch_demonstrations.versions import Game, Version
from icl_lens.studies.challenges.ch_edge_cuts import compute as edge_cuts
from icl_lens.studies.challenges.ch_edge_cuts.plans import Condition, Planned, labelled_conditions
from icl_lens.studies.challenges.ch_edge_cuts.study import Settings as EdgeCuts
from icl_lens.studies.challenges.ch_labels import compute as labels
from icl_lens.studies.challenges.ch_labels.study import Settings as Labels
from icl_lens.studies.challenges.ch_saliency import compute as ch_saliency
from icl_lens.studies.challenges.ch_saliency.edge_classes import find_classes
from icl_lens.studies.challenges.ch_saliency.names import ATTRIBUTIONS, EDGES, LAYER, TRUTHS
from icl_lens.studies.challenges.ch_saliency.study import Settings as ChSaliency
from icl_lens.studies.inputs import Given, Inputs
from tests.reference import ch_saliency as plain_ch_saliency_of
from tests.reference import compression as plain_compression
from tests.reference import demonstrations as plain_demonstrations
from tests.reference import labels as plain_labels_of
from tests.reference import reweighting as plain_reweighting
from tests.reference.deep_attention import class_attention
from tests.reference.edge_cuts import cut_logits, gold_margin
from tests.reference.isolation import isolated_logits, jaccard
from tests.reference.saliency import saliency as plain_saliency_of

# The edges that each condition of fast_cuts cuts, by the token ids of the prompt.
_EDGES: dict[bytes, list[tuple[Condition, Planned | None]]] = {}


@dataclass(frozen=True)
class Subsets:
    """A prompt with the prompts of all subsets of its demonstrations.

    Attributes:
        prompt: The prompt.
        game: The game of the demonstrations.
        versions: Subset -> its prompt.
    """

    prompt: TokenizedPrompt
    game: Game
    versions: dict[tuple[int, ...], Version]

    @property
    def ids(self) -> np.ndarray:
        """Token ids of the prompt."""
        return self.prompt.ids


def subsets(pair, table: pd.DataFrame, demonstrations_per_prompt: int) -> list[Subsets]:
    """Return each prompt of a table with the prompts of its subsets."""
    tokenizer, settings = (
        pair.model.tokenizer,
        Demonstrations(queries=len(table), control_queries=0, demonstrations=demonstrations_per_prompt),
    )
    given = Given(pair.model, table, {}, settings, "auto", False, lambda rows: tokenize(rows, tokenizer))
    prepared = demonstrations.prepare(given)
    return [
        Subsets(p, each.games[PLAIN], each.own) for p, each in zip(prepared.prompts, prepared.more["versions"], strict=True)
    ]


@torch.inference_mode()
def fast_shapley(pair, prompts: list[Subsets], budget) -> np.ndarray:
    """Return the Shapley values of deleted demonstrations, shape (N, K)."""
    groups: dict[bytes, list[Subsets]] = {}
    for prompt in prompts:
        before = prompt.versions[prompt.game.plan.coalitions[-1]]
        groups.setdefault(before.ids[: before.query].tobytes(), []).append(prompt)
    found = {}
    for group in groups.values():
        versions = [prompt.versions for prompt in group]
        for prompt, scores in zip(group, trees.of_versions(pair.model, versions, group[0].prompt, budget), strict=True):
            values = plain_demonstrations.margins(scores, prompt.prompt.gold)
            found[id(prompt)] = shapley.shapley(prompt.game.plan, values).phi
    return np.stack([found[id(prompt)] for prompt in prompts])


@torch.inference_mode()
def plain_shapley(pair, prompts: list[Subsets]) -> np.ndarray:
    """Return the same, one prompt at a time, with the fused kernel and only the logits of the last position."""
    pair.plain.set_attn_implementation("sdpa")
    found = []
    for prompt in prompts:
        scores = {}
        for subset, version in prompt.versions.items():
            ids = torch.from_numpy(version.ids)[None].to(pair.plain.device)
            logits = pair.plain(ids, use_cache=False, logits_to_keep=1).logits[0, -1]
            scores[subset] = logits[torch.from_numpy(prompt.prompt.label_ids)].double().cpu().numpy()
        values = plain_demonstrations.margins(scores, prompt.prompt.gold)
        found.append(plain_demonstrations.shapley(values, prompt.game.plan.players))
    return np.stack(found)


def fast_saliency(pair, prompts, budget) -> np.ndarray:
    """Return S_wp, S_pq and S_ww, shape (N, L, 3)."""
    found = saliency.compute(pair.model, prompts, budget)
    return found[list(saliency.METRICS)].to_numpy().reshape(len(prompts), -1, 3)


def plain_saliency(pair, prompts) -> np.ndarray:
    flows = (plain_saliency_of(pair.plain, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold).T for p in prompts)
    return np.stack(list(flows))


def fast_ch_saliency(pair, prompts, budget, settings: ChSaliency) -> np.ndarray:
    """Return attributions and effects of cuts for the loss of the gold label, shape (N, L, classes, 9).

    Each quantity is divided by its largest value of the prompt, because the quantities have different scales. The effects of
    removing heads, and the same values for the margin and for the own answer, are also computed.
    """
    rows = ch_saliency.compute(pair.model, prompts, budget, settings=settings)
    rows = rows[(rows["answer"] == "gold") & (rows["quantity"] == "loss")].set_index(["prompt_id", "layer", "edges"])
    cells = [(p.prompt_id, layer, name) for p in prompts for layer in range(pair.model.layers) for name in (*EDGES, LAYER)]
    found = rows[[*ATTRIBUTIONS, *TRUTHS]].reindex(cells, fill_value=0.0).to_numpy()
    return _scaled(found.reshape(len(prompts), pair.model.layers, -1, found.shape[1]))


def plain_ch_saliency(pair, prompts, settings: ChSaliency) -> np.ndarray:
    found = []
    for p in prompts:
        plain = plain_ch_saliency_of.Plain(pair.plain, p.ids.tolist(), p.label_ids.tolist())
        masks = {name: torch.from_numpy(mask).to(pair.plain.device) for name, mask in find_classes(p).items()}
        for layer in range(pair.model.layers):
            given = plain, layer, p.gold, "loss", {name: mask for name, mask in masks.items() if mask.any()}
            attributed, truths = plain_ch_saliency_of.attributions(*given, settings.steps), plain_ch_saliency_of.truths(*given)
            zeroed = plain.zeroed(layer)
            for name, mask in masks.items():
                if name not in truths:
                    found.append([0.0] * (len(ATTRIBUTIONS) + len(TRUTHS)))
                    continue
                values = {**attributed[name], "value_zeroing": float(zeroed[mask.cpu()].sum())}
                found.append([*(values[method] for method in ATTRIBUTIONS), *truths[name]])
    return _scaled(np.array(found).reshape(len(prompts), pair.model.layers, len(EDGES) + 1, -1))


def _scaled(values: np.ndarray) -> np.ndarray:
    """Divide each quantity (last axis) by its largest absolute value of each prompt (first axis)."""
    return values / np.abs(values).max((1, 2), keepdims=True)


def fast_attention(pair, prompts, budget) -> np.ndarray:
    """Return the attention to the label words of each class, shape (N, L, C)."""
    rows = deep_attention.compute(pair.model, prompts, budget)
    return attention_scores(rows, [p.prompt_id for p in prompts]).transpose(1, 0, 2)


def plain_attention(pair, prompts) -> np.ndarray:
    return np.stack(
        [
            class_attention(pair.plain, p.ids.tolist(), p.anchors.tolist(), p.demo_labels.tolist(), len(p.label_ids))
            for p in prompts
        ]
    )


def fast_isolation(pair, prompts, budget, settings: Isolation) -> np.ndarray:
    """Return the prediction and the overlap of 5 and of 10 words for each condition, shape (N, C, 3)."""
    found = isolation.compute(pair.model, prompts, budget, settings=settings)
    columns = ["prediction", "word_jaccard_5", "word_jaccard_10"]
    return found[columns].to_numpy(dtype=float).reshape(len(prompts), -1, 3)


def plain_isolation(pair, prompts, settings: Isolation) -> np.ndarray:
    tokenizer, depth = pair.model.tokenizer, pair.model.layers
    found = []
    for prompt in prompts:
        ids, rows = prompt.ids.tolist(), []
        before = isolated_logits(pair.plain, ids, [], [], settings.blocking)[0]
        for target, draw, side, k in isolations(settings, depth):
            if target == "random":
                positions = random_positions(prompt, settings, draw, tokenizer.bos_token_id)
            else:
                positions = fixed_positions(prompt, target, lambda token: tokenizer.decode([token]))
            layers = range(k) if side == "first" else range(depth - k, depth)
            after = isolated_logits(pair.plain, ids, positions.tolist(), layers, settings.blocking)[0]
            words = [jaccard(after.topk(n).indices.tolist(), before.topk(n).indices.tolist()) for n in (5, 10)]
            rows.append([int(after[prompt.label_ids].argmax()), *words])
        found.append(rows)
    return np.array(found, dtype=float)


def fast_cuts(pair, prompts, budget, settings: EdgeCuts) -> np.ndarray:
    """Return the margin of the gold class in the uncut run and under each condition, shape (N, 1 + C). Remember the edges."""
    found = []
    for i, uncut, answers, plans in edge_cuts.cut_each(pair.model, prompts, budget, settings):
        listed = [condition for _, condition in labelled_conditions(pair.model.layers, settings, windows=True)]
        _EDGES[prompts[i].ids.tobytes()] = [(condition, plans[condition]) for condition in listed]
        found.append(
            (i, [gold_margin(each.scores, prompts[i].gold) for each in (uncut, *(answers.get(c, uncut) for c in listed))])
        )
    return np.array([margins for _, margins in sorted(found)])


def plain_cuts(pair, prompts) -> np.ndarray:
    """Return the same with one forward pass per prompt and valid condition, of the edges that :func:`fast_cuts` has chosen."""
    found = []
    for prompt in prompts:
        ids, length = prompt.ids.tolist(), len(prompt.ids)

        def run(edges: np.ndarray, layers: range, prompt=prompt, ids=ids) -> float:
            logits, _ = cut_logits(pair.plain, ids, edges, layers)
            return gold_margin(logits[prompt.label_ids], prompt.gold)

        margins = [run(np.zeros((length, length), dtype=bool), range(0))]
        for condition, each in _EDGES[prompt.ids.tobytes()]:
            if each is None:
                margins.append(margins[0])
                continue
            edges = np.zeros((length, length), dtype=bool)
            edges[each.rows, : each.edges.shape[1]] = each.edges
            margins.append(run(edges, range(condition.start, condition.stop)))
        found.append(margins)
    return np.array(found)


def label_versions(pair, table, settings: Labels) -> Inputs:
    """Return the prompts of a table with the labels of each condition."""
    tokenizer = pair.model.tokenizer
    return labels.prepare(Given(pair.model, table, {}, settings, "auto", False, lambda rows: tokenize(rows, tokenizer)))


def fast_labels(pair, inputs: Inputs, budget, settings: Labels) -> np.ndarray:
    """Return the log-probabilities of the label words in each version, shape (N, V, C)."""
    found = labels.compute(pair.model, inputs.prompts, inputs.more["versions"], budget, settings=settings)
    rows = np.stack(found["log_probs"])
    return rows.reshape(-1, len(inputs.prompts), rows.shape[-1]).transpose(1, 0, 2)


def plain_labels(pair, inputs: Inputs, few: int) -> np.ndarray:
    """Return the same of the first prompts, with one forward pass per prompt and version, without the content-free texts."""
    versions = [[each.prompts[i] for each in inputs.more["versions"]] for i in range(min(few, len(inputs.prompts)))]
    return np.array(
        [[plain_labels_of.log_probs(pair.plain, p.ids.tolist(), p.label_ids.tolist()) for p in of_one] for of_one in versions]
    )


def fast_compression(pair, prompts, budget, settings: Compression) -> np.ndarray:
    """Return the prediction and the overlap of 5 words for each method and draw, shape (N, C, 2)."""
    found = compression.compute(pair.model, prompts, budget, settings=settings)
    return found[["prediction", "word_jaccard_5"]].to_numpy(dtype=float).reshape(len(prompts), -1, 2)


def plain_compression_of(pair, prompts, settings: Compression) -> np.ndarray:
    found = []
    for prompt in prompts:
        ids, length, rows = prompt.ids.tolist(), compressed_demonstrations.query_start(prompt), []
        full = plain_compression.compressed_logits(pair.plain, ids, 0, [])
        for condition in (Compressed("full", 0, OWN), *compressions(settings)):
            if condition.method == "full":
                logits = full
            elif condition.method == "text_anchor":
                text_anchor_ids = compression.text_anchor(prompt, pair.model.tokenizer).ids.tolist()
                logits = plain_compression.compressed_logits(pair.plain, text_anchor_ids, 0, [])
            else:
                restarted = condition.positions == "restarted"
                run = plain_compression.restarted_logits if restarted else plain_compression.compressed_logits
                logits = run(pair.plain, ids, length, compression.positions_to_keep(prompt, condition, settings).tolist())
            words = jaccard(logits.topk(5).indices.tolist(), full.topk(5).indices.tolist())
            rows.append([int(logits[prompt.label_ids].argmax()), words])
        found.append(rows)
    return np.array(found, dtype=float)


def fast_reweighting(pair, prompts, auxiliary, budget, settings: Reweighting) -> tuple[np.ndarray, np.ndarray]:
    """Return the trained factors of each seed and the re-weighted log-probabilities of each prompt, both concatenated."""
    seeds = sorted({p.seed for p in prompts})
    runs = {seed: [p for p in auxiliary if p.seed == seed] for seed in seeds}
    trained = reweighting.train(pair.model, runs, settings, budget)
    answers = []
    for seed in seeds:
        seed_prompts = [p for p in prompts if p.seed == seed]
        answers += reweighting.reweighted(pair.model, seed_prompts, budget, trained[seed].beta)
    return np.concatenate([trained[seed].beta.ravel() for seed in seeds]), np.concatenate(answers)


def plain_reweighting_of(pair, prompts, auxiliary, settings: Reweighting) -> tuple[np.ndarray, np.ndarray]:
    seeds = sorted({p.seed for p in prompts})
    heads = pair.plain.config.get_text_config().num_attention_heads
    betas, answers = [], []
    for seed in seeds:
        examples = [p for p in auxiliary if p.seed == seed]
        generator = np.random.default_rng([settings.seed, seed])
        orders = [generator.permutation(len(examples)).tolist() for _ in range(settings.epochs)]
        rows = [(p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), p.gold) for p in examples]
        beta, _ = plain_reweighting.train(pair.plain, rows, orders, heads, settings.learning_rate)
        betas.append(beta.cpu().numpy().ravel())
        with torch.no_grad():
            for p in prompts:
                if p.seed == seed:
                    logits = plain_reweighting.class_logits(
                        pair.plain, p.ids.tolist(), p.anchors.tolist(), p.label_ids.tolist(), beta
                    )
                    answers.append(logits.log_softmax(-1).cpu().numpy())
    return np.concatenate(betas), np.concatenate(answers)

"""Computation of the study ``components``: answers of individual heads and MLPs, and of their trained weighted sums.

The study follows *When Parts Are Greater Than Sums* (Chang, Thomason, Jia; EMNLP 2024). Let g_j be the label logits that part j
(a head or an MLP) writes at the last position (:mod:`icl_lens.studies.component_reweighting.decomposition`). Part j answers
argmax_y g_j[y] (section 3). Re-weighted components answer argmax_y sum_j w_j g_j[y] with trained weights (section 5,
:mod:`icl_lens.studies.component_reweighting.component_weights`).

A prompt has about four demonstrations. Each prompt is written with three templates and one contrast template, with the same
demonstrations and query. The labelled texts of a seed are queries after its demonstrations, in an order that alternates between
classes. A budget of b labels takes the first b. Four baselines use the same labels: more demonstrations (as many as the context
length allows), the template that answers most of them correctly, calibration of the full model, and the component that answers
most of them correctly.

Methods of the table, each followed by a hyphen and its budget:

    icl                  the demonstrations alone
    few_shot             b labels in the prompt, including the demonstrations
    prompt_selection     the template that answers most of b texts correctly (ties: the lower loss)
    calib+, calib_log    calibrated on b texts, as released and on log-probabilities
    best_component       the head or MLP that answers most of b texts correctly (ties: the lower loss)
    comprw               heads and MLPs re-weighted on b texts in addition to the demonstrations, as released
    comprw_strict        the same with fewer texts, so that b includes the demonstrations
    comprw_with_rest     comprw plus the unweighted embedding and constant, which the released code omits
    comprw_unstopped     comprw without early stopping
    comprw_l1=X          comprw with L1 coefficient X

One forward pass per prompt and template reads everything. This includes the attention that each head pays to label words, and
whether its attention to demonstrations reconstructs the model's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from icl_lens.attention.supported import require_supported
from icl_lens.errors import InputError
from icl_lens.models.answers import class_log_probs
from icl_lens.models.language_model import LanguageModel
from icl_lens.progress import Runs
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.prompts.sets import DEMONSTRATIONS, per_class
from icl_lens.studies.component_reweighting import component_weights, templates
from icl_lens.studies.component_reweighting.decomposition import KINDS, Decomposed, Decomposer, decompose, heads_and_mlps
from icl_lens.studies.component_reweighting.settings import (
    CALIBRATED,
    CALIBRATED_LOG,
    CONTRAST,
    FEW_SHOT,
    OWN,
    PLAIN,
    PROMPTS,
    REWEIGHTED,
    SINGLE,
    STRICT,
    UNSTOPPED,
    WITH_REST,
    Settings,
)
from icl_lens.studies.inputs import Given, Inputs, of_tables


@dataclass(frozen=True)
class FewShot:
    """Prompts that contain a budget of labels.

    Attributes:
        under: Template -> prompts.
        labels: Number of labels in each prompt.
    """

    under: Mapping[str, Sequence[TokenizedPrompt]]
    labels: int


def prepare(given: Given) -> Inputs:
    """Prepare the prompts under each template, the labelled texts as prompts, and prompts with more demonstrations.

    The study uses the first prompts of each seed, written with the task's own template and the first few demonstrations.

    Args:
        given: Inputs of the study. The prompts of its table have all labelled texts of their seed as demonstrations. The
            model's context length limits the number of demonstrations.

    Raises:
        InputError: The table is not a ``labelled-...`` set, its prompts of one seed have different demonstrations, or no prompt
            or no labelled text fits the context.
    """
    model, settings = given.model, given.settings
    classes = len(given.table["label_words"].iloc[0])
    shots = per_class(DEMONSTRATIONS, classes)
    _require_labelled(given.table, shots * classes, max(settings.budgets))
    wordings = _wordings(given.table, settings)
    trained = [name for name in wordings if name != CONTRAST]
    asked = given.table.groupby("seed", sort=False).head(settings.queries)
    own = of_tables(given, {"prompts": _written(asked, wordings[OWN], shots)})
    table = given.rows_of(own.prompts)
    under = _fitting(model, {name: given.tokenize(_written(table, each, shots)) for name, each in wordings.items()})
    labelled = _fitting(model, {name: given.tokenize(_labelled(table, wordings[name], shots)) for name in trained})
    kept = given.rows_of(under[OWN])
    few_shot = {}
    for budget in settings.budgets:
        for more in range(max(shots, budget // classes), shots - 1, -1):
            prompts = {name: given.tokenize(_written(kept, wordings[name], more)) for name in trained}
            if model.context is None or max(len(p.ids) for each in prompts.values() for p in each) <= model.context:
                break
        few_shot[budget] = FewShot(prompts, more * classes)
    left_out = own.left_out + len(table) - len(kept)
    return Inputs(own.prompts, left_out, {"under": under, "labelled": labelled, "few_shot": few_shot})


def _require_labelled(table: pd.DataFrame, demonstrations: int, budget: int) -> None:
    """Check that all prompts of a seed have the same labelled texts, and that there are enough of them.

    Args:
        table: A prompts table.
        demonstrations: Number of labelled texts that are demonstrations.
        budget: Number of labelled texts that are needed in addition to them.

    Raises:
        InputError: The prompts of a seed have different labelled texts, or too few.
    """
    for seed, rows in table.groupby("seed"):
        if len({tuple(indices) for indices in rows["demo_indices"]}) != 1:
            raise InputError(f"seed {seed}: the prompts have several sets of demonstrations; give a set named labelled-24")
    needed = demonstrations + budget
    found = min(len(labels) for labels in table["demo_labels"])
    if found < needed:
        raise InputError(
            f"the prompts hold {found} labelled texts, where {needed} are needed (the demonstrations and "
            f"{budget} more); give a set named labelled-{budget}"
        )


def _wordings(table: pd.DataFrame, settings: Settings) -> dict[str, str]:
    first = table.iloc[0]
    return templates.of_task(first["task"], templates.of_prompt(first), settings.templates)


def _written(table: pd.DataFrame, template: str, shots: int) -> pd.DataFrame:
    """Write each prompt with a template and the first ``shots`` demonstrations of each class."""
    rows = table.to_dict("records")
    return pd.DataFrame(
        [templates.rewritten(row, template, templates.first_of_each(row["demo_labels"], shots)) for row in rows]
    )


def _labelled(table: pd.DataFrame, template: str, shots: int) -> pd.DataFrame:
    """Write the other labelled texts of each seed as queries after its demonstrations, alternating between classes."""
    rows = []
    for _, of_seed in table.groupby("seed", sort=True):
        row = of_seed.iloc[0].to_dict()
        shown = templates.first_of_each(row["demo_labels"], shots)
        written, _ = templates.texts(row)
        others = [place for place in range(len(written)) if place not in shown]
        for place in templates.in_turn(row["demo_labels"], others):
            changed = {"query": written[place], "gold": int(row["demo_labels"][place]), "prompt_id": len(rows)}
            rows.append(templates.rewritten(row, template, shown, **changed))
    return pd.DataFrame(rows)


def _fitting(model: LanguageModel, under: Mapping[str, list[TokenizedPrompt]]) -> dict[str, list[TokenizedPrompt]]:
    """Keep the prompts that fit the model's context under every template.

    Raises:
        InputError: No prompt fits.
    """
    long = {p.prompt_id for each in under.values() for p in each if model.context is not None and len(p.ids) > model.context}
    found = {name: [p for p in each if p.prompt_id not in long] for name, each in under.items()}
    if not found[OWN]:
        raise InputError(
            f"model {model.name}: no prompt fits its context of {model.context} tokens under every template; leave this "
            "task out (items.*.tasks) or use a model with a longer context"
        )
    return found


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    *,
    under: Mapping[str, Sequence[TokenizedPrompt]],
    labelled: Mapping[str, Sequence[TokenizedPrompt]],
    few_shot: Mapping[int, FewShot],
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Compute the answers of each method, and the parts behind them.

    Args:
        model, batch_tokens, progress, settings: Common to all studies, see :mod:`icl_lens.studies.study`.
        prompts: Prompts of :func:`prepare`. ``under`` contains those that fit the context under every template.
        under: Template -> prompts, the same prompts for each template.
        labelled: Template (without the contrast) -> each seed's labelled texts as prompts, in the order in which budgets take
            them.
        few_shot: Budget -> prompts that contain this number of labels.

    Raises:
        InputError: A seed has fewer labelled texts that fit the context than a budget, or the model's family cannot be
            decomposed.

    Returns:
        A table and tensors.

        The table has one row per template, method and prompt, in that order: prompt_id, template, method, labels (total number
        of labels that the method uses, including the demonstrations), gold, prediction (class indices). The contrast has only
        the method ``icl``.

        The tensors are: ``kind`` (index in :data:`icl_lens.studies.component_reweighting.decomposition.KINDS`), ``layer`` and
        ``head`` of each part, shape (K,); ``prompt_id``, ``seed``, ``gold``, shape (N,). For each template T: ``parts_T``,
        shape (N, K, C), ``logits_T``, shape (N, C), ``attention_T`` and ``reconstruction_T``, shape (N, L, H) (``attention``
        and ``reconstructed`` of :class:`~icl_lens.studies.component_reweighting.decomposition.Decomposed`). For each
        re-weighting method METHOD: ``weights_METHOD``, shape (S, T, M), for the M heads and MLPs in order, and
        ``epochs_METHOD`` and ``loss_METHOD``, shape (S, T). Seeds ascend and templates are in order.
    """
    settings = settings or Settings()
    require_supported(model.network)
    decomposer = Decomposer(model.network)
    trained = [name for name in under if name != CONTRAST]
    report = Runs(progress, len(under) + len(trained) * len(few_shot))
    tests: dict[str, Decomposed] = {}
    for name, its in under.items():
        tests[name] = decompose(model, decomposer, its, batch_tokens)
        report(len(its))
    first = under[OWN]
    seeds = np.array([p.seed for p in first])  # (N,)
    examples: dict[tuple[int, str], Examples] = {}
    for name in trained:
        taken = decompose(model, decomposer, labelled[name], batch_tokens, with_attention=False)
        for seed in sorted(set(seeds.tolist())):
            places = [place for place, p in enumerate(labelled[name]) if p.seed == seed]
            if len(places) < max(settings.budgets):
                raise InputError(
                    f"seed {seed}: {len(places)} labelled texts fit the context of {model.name}, and a budget "
                    f"(studies.components.budgets) is {max(settings.budgets)}"
                )
            gold = torch.tensor([labelled[name][place].gold for place in places])
            examples[seed, name] = Examples(taken.parts[places], taken.logits[places], gold)
    kinds = decomposer.parts()
    demonstrations = len(first[0].demo_labels)
    answers = Answers([p.prompt_id for p in first], np.array([p.gold for p in first]))
    for name, its in tests.items():
        answers.add(name, PLAIN, demonstrations, its.logits.argmax(-1).numpy())
    for budget, each in few_shot.items():
        for name in trained:
            found = class_log_probs(model, each.under[name], batch_tokens)
            answers.add(name, f"{FEW_SHOT}-{budget}", each.labels, np.array([row.argmax() for row in found]))
            report(len(found))
    movable = heads_and_mlps(kinds)
    tensors = _from_labels(tests, examples, seeds, movable, demonstrations, settings, answers)
    tensors |= {
        "kind": kinds["kind"].map(KINDS.index).to_numpy(),
        "layer": kinds["layer"].to_numpy(),
        "head": kinds["head"].to_numpy(),
        "prompt_id": np.array([p.prompt_id for p in first]),
        "seed": seeds,
        "gold": answers.gold,
    }
    for name, its in tests.items():
        read = {"parts": its.parts, "logits": its.logits, "attention": its.attention, "reconstruction": its.reconstructed}
        for what, values in read.items():
            tensors[f"{what}_{name}"] = values.numpy().astype(np.float32)
    return answers.table(), tensors


@dataclass(frozen=True)
class Examples:
    """Labelled texts of one seed under one template, in the order in which budgets take them.

    Attributes:
        parts: g, shape (n, K, C).
        logits: Logits of the full model, shape (n, C).
        gold: Class indices, shape (n,).
    """

    parts: Tensor
    logits: Tensor
    gold: Tensor


@dataclass
class Answers:
    """Predictions, collected method by method.

    Attributes:
        prompt_ids: Ids of the N prompts.
        gold: Class indices of the prompts, shape (N,).
        found: (template, method) -> number of labels that the method uses, and its predictions, shape (N,).
    """

    prompt_ids: list[int]
    gold: np.ndarray
    found: dict[tuple[str, str], tuple[int, np.ndarray]] = field(default_factory=dict)

    def add(self, template: str, method: str, labels: int, predictions: np.ndarray, where: np.ndarray | None = None) -> None:
        """Store predictions for all prompts, or for those where ``where`` is true."""
        if where is None:
            where = np.ones(len(self.gold), dtype=bool)
        _, known = self.found.setdefault((template, method), (labels, np.zeros(len(self.gold), dtype=np.int64)))
        known[where] = predictions

    def table(self) -> pd.DataFrame:
        """Return the rows of the table that :func:`compute` returns."""
        order = list(dict.fromkeys(template for template, _ in self.found))
        parts = [
            pd.DataFrame({"prompt_id": self.prompt_ids, "gold": self.gold, "prediction": predictions}).assign(
                template=template, method=method, labels=labels
            )
            for name in order
            for (template, method), (labels, predictions) in self.found.items()
            if template == name
        ]
        return pd.concat(parts, ignore_index=True)


def _from_labels(
    tests: Mapping[str, Decomposed],
    examples: Mapping[tuple[int, str], Examples],
    seeds: np.ndarray,
    movable: np.ndarray,
    demonstrations: int,
    settings: Settings,
    answers: Answers,
) -> dict[str, np.ndarray]:
    """Add the answers of all methods that train on labelled texts to ``answers``.

    Returns:
        The trained tensors, as described in :func:`compute`.
    """
    runs = list(examples)
    texts = max(len(each.gold) for each in examples.values())
    classes = next(iter(examples.values())).logits.shape[-1]
    parts = torch.stack([_padded(examples[run].parts, texts) for run in runs])  # (R, n, K, C)
    logits = torch.stack([_padded(examples[run].logits, texts) for run in runs])  # (R, n, C)
    gold = torch.stack([_padded(examples[run].gold, texts) for run in runs])  # (R, n)
    moved = parts[:, :, movable]  # (R, n, M, C)
    rest = parts.sum(2) - moved.sum(2)  # (R, n, C)
    where = {run: seeds == run[0] for run in runs}

    def first(count: int) -> Tensor:
        return (torch.arange(texts) < count).expand(len(runs), -1)  # (R, n)

    for budget in settings.budgets:
        _choose(tests, runs, where, moved, logits, gold, budget, movable, demonstrations, answers)
    times = len(settings.budgets)
    for method, proper in ((CALIBRATED, False), (CALIBRATED_LOG, True)):
        counted = torch.cat([first(budget) for budget in settings.budgets])
        learnt = component_weights.calibrate(logits.repeat(times, 1, 1), gold.repeat(times, 1), counted, settings, proper)
        for budget, of_budget in zip(settings.budgets, learnt.weights.view(times, len(runs), classes), strict=True):
            for run, weights in zip(runs, of_budget, strict=True):
                scores = component_weights.calibrated(tests[run[1]].logits[where[run]], weights, proper)  # (n, C)
                found = scores.argmax(-1).numpy()
                answers.add(run[1], f"{method}-{budget}", demonstrations + budget, found, where[run])
    largest = settings.budgets[-1]
    plans = [_Plan(f"{REWEIGHTED}-{budget}", budget, settings.l1) for budget in settings.budgets]
    if largest > demonstrations:
        plans.append(_Plan(f"{STRICT}-{largest}", largest - demonstrations, settings.l1))
    plans.append(_Plan(f"{WITH_REST}-{largest}", largest, settings.l1, rest=True))
    plans.append(_Plan(f"{UNSTOPPED}-{largest}", largest, settings.l1, stops=False))
    plans += [_Plan(f"{REWEIGHTED}_l1={l1:g}-{largest}", largest, l1) for l1 in settings.sweep]
    count = len(runs)
    learnt = component_weights.reweight(
        moved.repeat(len(plans), 1, 1, 1),
        gold.repeat(len(plans), 1),
        torch.cat([first(plan.texts) for plan in plans]),
        settings,
        l1=torch.tensor([plan.l1 for plan in plans]).repeat_interleave(count),
        stops=torch.tensor([plan.stops for plan in plans]).repeat_interleave(count),
        rest=torch.cat([rest if plan.rest else torch.zeros(count, texts, classes) for plan in plans]),
    )
    tensors = {}
    order = (len({seed for seed, _ in runs}), -1)
    names = [run for run in sorted(runs, key=lambda run: run[0])]  # seeds in ascending order, templates in order
    for number, plan in enumerate(plans):
        own = {run: number * count + place for place, run in enumerate(runs)}
        for run in runs:
            its, mine = tests[run[1]].parts[where[run]], learnt.weights[own[run]]  # (n, K, C), (M,)
            z = torch.einsum("nmc,m->nc", its[:, movable], mine)  # (n, C)
            if plan.rest:
                z = z + its.sum(1) - its[:, movable].sum(1)
            answers.add(run[1], plan.method, demonstrations + plan.texts, z.argmax(-1).numpy(), where[run])
        index = [own[run] for run in names]
        tensors[f"weights_{plan.method}"] = learnt.weights[index].view(*order, len(movable)).numpy()
        tensors[f"epochs_{plan.method}"] = learnt.epochs[index].view(*order).numpy()
        tensors[f"loss_{plan.method}"] = learnt.loss[index].view(*order).numpy()
    return tensors


@dataclass(frozen=True)
class _Plan:
    """One re-weighting method: its name, its number of training texts, and its changes to the released rules."""

    method: str
    texts: int
    l1: float
    stops: bool = True
    rest: bool = False


def _choose(
    tests: Mapping[str, Decomposed],
    runs: Sequence[tuple[int, str]],
    where: Mapping[tuple[int, str], np.ndarray],
    moved: Tensor,
    logits: Tensor,
    gold: Tensor,
    budget: int,
    movable: np.ndarray,
    demonstrations: int,
    answers: Answers,
) -> None:
    """Add the answers of the best template and of the best component on the first ``budget`` labelled texts."""
    places = range(len(runs))
    whole = {place: _quality(logits[place, :budget, None], gold[place, :budget])[0] for place in places}
    for place, run in enumerate(runs):
        rivals = [other for other in places if runs[other][0] == run[0]]
        chosen = runs[max(rivals, key=lambda other: whole[other])][1]
        found = tests[chosen].logits[where[run]].argmax(-1).numpy()
        answers.add(run[1], f"{PROMPTS}-{budget}", demonstrations + budget, found, where[run])
        qualities = _quality(moved[place, :budget], gold[place, :budget])
        best = int(movable[max(range(len(movable)), key=lambda part: qualities[part])])
        found = tests[run[1]].parts[where[run], best].argmax(-1).numpy()
        answers.add(run[1], f"{SINGLE}-{budget}", demonstrations + budget, found, where[run])


def _quality(logits: Tensor, gold: Tensor) -> list[tuple[float, float]]:
    """Score the answers of M candidates to n texts from logits of shape (n, M, C).

    Returns:
        For each candidate, the number of correct answers and the negative loss.
    """
    right = (logits.argmax(-1) == gold[:, None]).sum(0)  # (M,)
    loss = -logits.log_softmax(-1).gather(-1, gold[:, None, None].expand(-1, logits.shape[1], 1))[..., 0].mean(0)  # (M,)
    return list(zip(right.tolist(), (-loss).tolist(), strict=True))


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Pad a tensor with zero rows to a given length."""
    return torch.cat([tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])])

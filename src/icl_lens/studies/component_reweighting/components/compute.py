"""Components: what each head and each MLP alone answers, and what a few labels make of them.

*When Parts Are Greater Than Sums* (Chang, Thomason, Jia; EMNLP 2024). With g_j the label logits that part j (a head, an MLP)
writes at the last position (:mod:`icl_lens.studies.component_reweighting.decomposition`), part j answers argmax_y g_j[y]
(section 3), and re-weighted components answer argmax_y sum_j w_j g_j[y] with trained weights (section 5,
:mod:`icl_lens.studies.component_reweighting.component_weights`).

A prompt has about four demonstrations. Every prompt is written by three templates and one contrast, with the same
demonstrations and queries. A seed's labelled texts stand as queries behind its demonstrations, the classes in turn; a budget of
b labels takes the first b. Beside re-weighting stand, from the same labels: more demonstrations (as many as the context holds),
the template that answers most of them right, the whole model calibrated, and the component that answers most right.

Methods of the table, each with its budget behind a hyphen:

    icl                  the demonstrations as they are
    few_shot             b labels in the prompt, the demonstrations among them
    prompt_selection     the template that answers most of b texts right (equal: the lower loss)
    calib+, calib_log    calibrated on b texts, as released and on log-probabilities
    best_component       the head or MLP that answers most of b texts right (equal: the lower loss)
    comprw               heads and MLPs re-weighted on b texts besides the demonstrations, as released
    comprw_strict        the same on so many fewer that b counts the demonstrations, too
    comprw_with_rest     comprw, embedding and constant added as they are, which the released code leaves out
    comprw_unstopped     comprw without a rule that ends it early
    comprw_l1=X          comprw with another weight of the absolute weights

One forward pass a prompt and template reads everything, the attention that each head pays to label words and whether its
attention to demonstrations reconstructs the model's answer included.
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
    """The prompts with a budget of labels in them.

    Attributes:
        under: Template -> prompts.
        labels: How many labels stand in each.
    """

    under: Mapping[str, Sequence[TokenizedPrompt]]
    labels: int


def prepare(given: Given) -> Inputs:
    """The prompts under every template, the labelled texts as prompts, and prompts with more demonstrations.

    The study is about the first prompts of each seed, written by the task's own template with the first few demonstrations.

    Args:
        given: Its table has prompts whose demonstrations are all labelled texts of their seed; the model's context decides how
            many demonstrations there is room for.

    Raises:
        InputError: The table is not a ``labelled-...`` set, or its prompts of one seed have different demonstrations; or no
            prompt or no labelled text fits the context.
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
    """Checks that each seed has the same labelled texts in all its prompts, and enough of them.

    Args:
        table: A prompts table.
        demonstrations: How many of the labelled texts are demonstrations.
        budget: How many are needed besides them.

    Raises:
        InputError: The prompts of a seed have different ones, or too few.
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
    """Every prompt by a template, with the first ``shots`` of each class."""
    rows = table.to_dict("records")
    return pd.DataFrame(
        [templates.rewritten(row, template, templates.first_of_each(row["demo_labels"], shots)) for row in rows]
    )


def _labelled(table: pd.DataFrame, template: str, shots: int) -> pd.DataFrame:
    """The labelled texts of each seed that are no demonstrations, as queries behind these, the classes in turn."""
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
    """The prompts that fit the model's context under every template.

    Raises:
        InputError: None does.
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
    """Answers of every method, and the parts that they are made of.

    Args:
        model, batch_tokens, progress, settings: As every study takes them, see :mod:`icl_lens.studies.study`.
        prompts: Those of :func:`prepare`; ``under`` has those of them that fit the context under every template.
        under: Template -> the prompts, the same in all.
        labelled: Template (without the contrast) -> each seed's labelled texts as prompts, in the order of the budgets.
        few_shot: Budget -> the prompts with so many labels in them.

    Raises:
        InputError: A seed has fewer labelled texts (that fit) than a budget, or the model's family cannot be decomposed.

    Returns:
        One row a template, method and prompt, in that order: prompt_id, template, method, labels (how many labels it takes in
        all, the demonstrations among them), gold, prediction (class indices); under the contrast ``icl`` only. And tensors:
        ``kind`` (place in :data:`icl_lens.studies.component_reweighting.decomposition.KINDS`), ``layer`` and ``head`` of each
        part, shape (K,); ``prompt_id``, ``seed``, ``gold``, shape (N,); for each template T ``parts_T``, shape (N, K, C),
        ``logits_T``, shape (N, C), ``attention_T`` and ``reconstruction_T``, shape (N, L, H) (``attention`` and
        ``reconstructed`` of :class:`~icl_lens.studies.component_reweighting.decomposition.Decomposed`); of each way to
        re-weight METHOD ``weights_METHOD``, shape (S, T, M), of the M heads and MLPs in their order, ``epochs_METHOD``, shape
        (S, T), and ``loss_METHOD`` alike, seeds ascending, templates in order.
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
    """A seed's labelled texts under one template, in the order in which budgets take them.

    Attributes:
        parts: g, shape (n, K, C).
        logits: Of the whole model, shape (n, C).
        gold: Class indices, shape (n,).
    """

    parts: Tensor
    logits: Tensor
    gold: Tensor


@dataclass
class Answers:
    """Predictions, collected method by method.

    Attributes:
        prompt_ids: Of the N prompts.
        gold: Their class indices, shape (N,).
        found: (template, method) -> how many labels it takes, and predictions, shape (N,).
    """

    prompt_ids: list[int]
    gold: np.ndarray
    found: dict[tuple[str, str], tuple[int, np.ndarray]] = field(default_factory=dict)

    def add(self, template: str, method: str, labels: int, predictions: np.ndarray, where: np.ndarray | None = None) -> None:
        """Take predictions of all prompts, or of those where ``where`` holds."""
        if where is None:
            where = np.ones(len(self.gold), dtype=bool)
        _, known = self.found.setdefault((template, method), (labels, np.zeros(len(self.gold), dtype=np.int64)))
        known[where] = predictions

    def table(self) -> pd.DataFrame:
        """Rows as :func:`compute` returns them."""
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
    """Add what labelled texts teach to ``answers``; returns what was trained, as :func:`compute` has it."""
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
    names = [run for run in sorted(runs, key=lambda run: run[0])]  # seeds ascending, templates in their order
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
    """One way to re-weight: its name, how many texts it is trained on, and what is changed of the released rules."""

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
    """The best template and the best single component by the first ``budget`` labelled texts."""
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
    """How good the answers of M rivals are to n texts: how many are right, then minus the loss. Logits: (n, M, C)."""
    right = (logits.argmax(-1) == gold[:, None]).sum(0)  # (M,)
    loss = -logits.log_softmax(-1).gather(-1, gold[:, None, None].expand(-1, logits.shape[1], 1))[..., 0].mean(0)  # (M,)
    return list(zip(right.tolist(), (-loss).tolist(), strict=True))


def _padded(tensor: Tensor, length: int) -> Tensor:
    """The tensor with zeros behind, to so many rows."""
    return torch.cat([tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])])

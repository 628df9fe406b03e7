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
from icl_lens.studies.component_reweighting.decomposition import KINDS, Decomposer, Decomposition, decompose, heads_and_mlps
from icl_lens.studies.component_reweighting.settings import (
    BEST_COMPONENT,
    CALIBRATED,
    CALIBRATED_LOG,
    CONTRAST,
    FEW_SHOT,
    OWN,
    PLAIN,
    PROMPT_SELECTION,
    REWEIGHTED,
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
        by_template: Template -> prompts.
        labels: Number of labels in each prompt.
    """

    by_template: Mapping[str, Sequence[TokenizedPrompt]]
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
    training_templates = [name for name in wordings if name != CONTRAST]
    queries = given.table.groupby("seed", sort=False).head(settings.queries)
    inputs = of_tables(given, {"prompts": _write_prompts(queries, wordings[OWN], shots)})
    table = given.rows_of(inputs.prompts)
    by_template = _keep_fitting(
        model, {name: given.tokenize(_write_prompts(table, each, shots)) for name, each in wordings.items()}
    )
    labelled = _keep_fitting(
        model, {name: given.tokenize(_write_labelled(table, wordings[name], shots)) for name in training_templates}
    )
    remaining = given.rows_of(by_template[OWN])
    few_shot = {}
    for budget in settings.budgets:
        for n_shots in range(max(shots, budget // classes), shots - 1, -1):
            prompts = {name: given.tokenize(_write_prompts(remaining, wordings[name], n_shots)) for name in training_templates}
            if model.context is None or max(len(p.ids) for each in prompts.values() for p in each) <= model.context:
                break
        few_shot[budget] = FewShot(prompts, n_shots * classes)
    left_out = inputs.left_out + len(table) - len(remaining)
    return Inputs(inputs.prompts, left_out, {"by_template": by_template, "labelled": labelled, "few_shot": few_shot})


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
            raise InputError(f"seed {seed}: the prompts have different demonstrations; use a set named labelled-24")
    needed = demonstrations + budget
    available = min(len(labels) for labels in table["demo_labels"])
    if available < needed:
        raise InputError(
            f"the prompts contain {available} labelled texts, but {needed} are required (the demonstrations and {budget} "
            f"more); use a set named labelled-{budget}"
        )


def _wordings(table: pd.DataFrame, settings: Settings) -> dict[str, str]:
    first = table.iloc[0]
    return templates.task_templates(first["task"], templates.recover_template(first), settings.templates)


def _write_prompts(table: pd.DataFrame, template: str, shots: int) -> pd.DataFrame:
    """Write each prompt with a template and the first ``shots`` demonstrations of each class."""
    rows = table.to_dict("records")
    return pd.DataFrame(
        [templates.rewrite(row, template, templates.first_per_class(row["demo_labels"], shots)) for row in rows]
    )


def _write_labelled(table: pd.DataFrame, template: str, shots: int) -> pd.DataFrame:
    """Write the other labelled texts of each seed as queries after its demonstrations, alternating between classes."""
    rows = []
    for _, seed_rows in table.groupby("seed", sort=True):
        row = seed_rows.iloc[0].to_dict()
        demonstrations = templates.first_per_class(row["demo_labels"], shots)
        texts, _ = templates.prompt_texts(row)
        remaining = [index for index in range(len(texts)) if index not in demonstrations]
        for index in templates.alternate_classes(row["demo_labels"], remaining):
            changes = {"query": texts[index], "gold": int(row["demo_labels"][index]), "prompt_id": len(rows)}
            rows.append(templates.rewrite(row, template, demonstrations, **changes))
    return pd.DataFrame(rows)


def _keep_fitting(model: LanguageModel, by_template: Mapping[str, list[TokenizedPrompt]]) -> dict[str, list[TokenizedPrompt]]:
    """Keep the prompts that fit the model's context under every template.

    Raises:
        InputError: No prompt fits.
    """
    too_long = {
        p.prompt_id for each in by_template.values() for p in each if model.context is not None and len(p.ids) > model.context
    }
    fitting = {name: [p for p in each if p.prompt_id not in too_long] for name, each in by_template.items()}
    if not fitting[OWN]:
        raise InputError(
            f"model {model.name}: no prompt fits its context of {model.context} tokens with every template; remove this "
            "task (items.*.tasks) or use a model with a longer context"
        )
    return fitting


def compute(
    model: LanguageModel,
    prompts: Sequence[TokenizedPrompt],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda done: None,
    settings: Settings | None = None,
    *,
    by_template: Mapping[str, Sequence[TokenizedPrompt]],
    labelled: Mapping[str, Sequence[TokenizedPrompt]],
    few_shot: Mapping[int, FewShot],
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Compute the answers of each method, and the parts behind them.

    Args:
        model, batch_tokens, progress, settings: Common to all studies, see :mod:`icl_lens.studies.study`.
        prompts: Prompts of :func:`prepare`. ``by_template`` contains those that fit the context under every template.
        by_template: Template -> prompts, the same prompts for each template.
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
        and ``reconstructed`` of :class:`~icl_lens.studies.component_reweighting.decomposition.Decomposition`). For each
        re-weighting method METHOD: ``weights_METHOD``, shape (S, T, M), for the M heads and MLPs in order, and
        ``epochs_METHOD`` and ``loss_METHOD``, shape (S, T). Seeds ascend and templates are in order.
    """
    settings = settings or Settings()
    require_supported(model.network)
    decomposer = Decomposer(model.network)
    training_templates = [name for name in by_template if name != CONTRAST]
    report = Runs(progress, len(by_template) + len(training_templates) * len(few_shot))
    tests: dict[str, Decomposition] = {}
    for name, template_prompts in by_template.items():
        tests[name] = decompose(model, decomposer, template_prompts, batch_tokens)
        report(len(template_prompts))
    first = by_template[OWN]
    seeds = np.array([p.seed for p in first])  # (N,)
    examples: dict[tuple[int, str], Examples] = {}
    for name in training_templates:
        decomposed = decompose(model, decomposer, labelled[name], batch_tokens, with_attention=False)
        for seed in sorted(set(seeds.tolist())):
            indices = [index for index, p in enumerate(labelled[name]) if p.seed == seed]
            if len(indices) < max(settings.budgets):
                raise InputError(
                    f"seed {seed}: only {len(indices)} labelled texts fit the context of {model.name}, but "
                    f"studies.components.budgets contains {max(settings.budgets)}; use smaller budgets or a model with a "
                    "longer context"
                )
            gold = torch.tensor([labelled[name][index].gold for index in indices])
            examples[seed, name] = Examples(decomposed.parts[indices], decomposed.logits[indices], gold)
    parts = decomposer.parts()
    demonstrations = len(first[0].demo_labels)
    answers = Answers([p.prompt_id for p in first], np.array([p.gold for p in first]))
    for name, test in tests.items():
        answers.add(name, PLAIN, demonstrations, test.logits.argmax(-1).numpy())
    for budget, each in few_shot.items():
        for name in training_templates:
            log_probs = class_log_probs(model, each.by_template[name], batch_tokens)
            answers.add(name, f"{FEW_SHOT}-{budget}", each.labels, np.array([row.argmax() for row in log_probs]))
            report(len(log_probs))
    components = heads_and_mlps(parts)
    tensors = _train_on_labels(tests, examples, seeds, components, demonstrations, settings, answers)
    tensors |= {
        "kind": parts["kind"].map(KINDS.index).to_numpy(),
        "layer": parts["layer"].to_numpy(),
        "head": parts["head"].to_numpy(),
        "prompt_id": np.array([p.prompt_id for p in first]),
        "seed": seeds,
        "gold": answers.gold,
    }
    for name, test in tests.items():
        arrays = {"parts": test.parts, "logits": test.logits, "attention": test.attention, "reconstruction": test.reconstructed}
        for array_name, values in arrays.items():
            tensors[f"{array_name}_{name}"] = values.numpy().astype(np.float32)
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
    """Predictions of several methods on the same prompts.

    Attributes:
        prompt_ids: Ids of the N prompts.
        gold: Class indices of the prompts, shape (N,).
        entries: (template, method) -> number of labels that the method uses, and its predictions, shape (N,).
    """

    prompt_ids: list[int]
    gold: np.ndarray
    entries: dict[tuple[str, str], tuple[int, np.ndarray]] = field(default_factory=dict)

    def add(self, template: str, method: str, labels: int, predictions: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Store predictions for all prompts, or for those where ``mask`` is true."""
        if mask is None:
            mask = np.ones(len(self.gold), dtype=bool)
        _, stored = self.entries.setdefault((template, method), (labels, np.zeros(len(self.gold), dtype=np.int64)))
        stored[mask] = predictions

    def table(self) -> pd.DataFrame:
        """Return the rows of the table that :func:`compute` returns."""
        order = list(dict.fromkeys(template for template, _ in self.entries))
        parts = [
            pd.DataFrame({"prompt_id": self.prompt_ids, "gold": self.gold, "prediction": predictions}).assign(
                template=template, method=method, labels=labels
            )
            for name in order
            for (template, method), (labels, predictions) in self.entries.items()
            if template == name
        ]
        return pd.concat(parts, ignore_index=True)


def _train_on_labels(
    tests: Mapping[str, Decomposition],
    examples: Mapping[tuple[int, str], Examples],
    seeds: np.ndarray,
    components: np.ndarray,
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
    component_logits = parts[:, :, components]  # (R, n, M, C)
    rest = parts.sum(2) - component_logits.sum(2)  # (R, n, C)
    masks = {run: seeds == run[0] for run in runs}

    def first_texts(count: int) -> Tensor:
        return (torch.arange(texts) < count).expand(len(runs), -1)  # (R, n)

    for budget in settings.budgets:
        _select(tests, runs, masks, component_logits, logits, gold, budget, components, demonstrations, answers)
    n_budgets = len(settings.budgets)
    for method, on_log_probs in ((CALIBRATED, False), (CALIBRATED_LOG, True)):
        mask = torch.cat([first_texts(budget) for budget in settings.budgets])
        trained = component_weights.calibrate(
            logits.repeat(n_budgets, 1, 1), gold.repeat(n_budgets, 1), mask, settings, on_log_probs
        )
        for budget, budget_weights in zip(settings.budgets, trained.weights.view(n_budgets, len(runs), classes), strict=True):
            for run, weights in zip(runs, budget_weights, strict=True):
                scores = component_weights.apply_calibration(tests[run[1]].logits[masks[run]], weights, on_log_probs)  # (n, C)
                predictions = scores.argmax(-1).numpy()
                answers.add(run[1], f"{method}-{budget}", demonstrations + budget, predictions, masks[run])
    max_budget = settings.budgets[-1]
    plans = [_Plan(f"{REWEIGHTED}-{budget}", budget, settings.l1) for budget in settings.budgets]
    if max_budget > demonstrations:
        plans.append(_Plan(f"{STRICT}-{max_budget}", max_budget - demonstrations, settings.l1))
    plans.append(_Plan(f"{WITH_REST}-{max_budget}", max_budget, settings.l1, rest=True))
    plans.append(_Plan(f"{UNSTOPPED}-{max_budget}", max_budget, settings.l1, early_stopping=False))
    plans += [_Plan(f"{REWEIGHTED}_l1={l1:g}-{max_budget}", max_budget, l1) for l1 in settings.sweep]
    count = len(runs)
    trained = component_weights.reweight(
        component_logits.repeat(len(plans), 1, 1, 1),
        gold.repeat(len(plans), 1),
        torch.cat([first_texts(plan.texts) for plan in plans]),
        settings,
        l1=torch.tensor([plan.l1 for plan in plans]).repeat_interleave(count),
        early_stopping=torch.tensor([plan.early_stopping for plan in plans]).repeat_interleave(count),
        rest=torch.cat([rest if plan.rest else torch.zeros(count, texts, classes) for plan in plans]),
    )
    tensors = {}
    order = (len({seed for seed, _ in runs}), -1)
    ordered_runs = [run for run in sorted(runs, key=lambda run: run[0])]  # seeds in ascending order, templates in order
    for number, plan in enumerate(plans):
        positions = {run: number * count + index for index, run in enumerate(runs)}
        for run in runs:
            run_parts, run_weights = tests[run[1]].parts[masks[run]], trained.weights[positions[run]]  # (n, K, C), (M,)
            z = torch.einsum("nmc,m->nc", run_parts[:, components], run_weights)  # (n, C)
            if plan.rest:
                z = z + run_parts.sum(1) - run_parts[:, components].sum(1)
            answers.add(run[1], plan.method, demonstrations + plan.texts, z.argmax(-1).numpy(), masks[run])
        index = [positions[run] for run in ordered_runs]
        tensors[f"weights_{plan.method}"] = trained.weights[index].view(*order, len(components)).numpy()
        tensors[f"epochs_{plan.method}"] = trained.epochs[index].view(*order).numpy()
        tensors[f"loss_{plan.method}"] = trained.loss[index].view(*order).numpy()
    return tensors


@dataclass(frozen=True)
class _Plan:
    """One re-weighting method: its name, its number of training texts, and its changes to the released rules."""

    method: str
    texts: int
    l1: float
    early_stopping: bool = True
    rest: bool = False


def _select(
    tests: Mapping[str, Decomposition],
    runs: Sequence[tuple[int, str]],
    masks: Mapping[tuple[int, str], np.ndarray],
    component_logits: Tensor,
    logits: Tensor,
    gold: Tensor,
    budget: int,
    components: np.ndarray,
    demonstrations: int,
    answers: Answers,
) -> None:
    """Add the answers of the best template and of the best component on the first ``budget`` labelled texts."""
    indices = range(len(runs))
    template_scores = {index: _score(logits[index, :budget, None], gold[index, :budget])[0] for index in indices}
    for index, run in enumerate(runs):
        candidates = [other for other in indices if runs[other][0] == run[0]]
        selected = runs[max(candidates, key=lambda other: template_scores[other])][1]
        predictions = tests[selected].logits[masks[run]].argmax(-1).numpy()
        answers.add(run[1], f"{PROMPT_SELECTION}-{budget}", demonstrations + budget, predictions, masks[run])
        component_scores = _score(component_logits[index, :budget], gold[index, :budget])
        best = int(components[max(range(len(components)), key=lambda part: component_scores[part])])
        predictions = tests[run[1]].parts[masks[run], best].argmax(-1).numpy()
        answers.add(run[1], f"{BEST_COMPONENT}-{budget}", demonstrations + budget, predictions, masks[run])


def _score(logits: Tensor, gold: Tensor) -> list[tuple[float, float]]:
    """Score the answers of M candidates to n texts from logits of shape (n, M, C).

    Returns:
        For each candidate, the number of correct answers and the negative loss.
    """
    correct = (logits.argmax(-1) == gold[:, None]).sum(0)  # (M,)
    loss = -logits.log_softmax(-1).gather(-1, gold[:, None, None].expand(-1, logits.shape[1], 1))[..., 0].mean(0)  # (M,)
    return list(zip(correct.tolist(), (-loss).tolist(), strict=True))


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Pad a tensor with zero rows to a given length."""
    return torch.cat([tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])])

"""One prompt on one page: its information flow, attention, isolation and predictions by layer, as one self-contained HTML file.

The page shows what the report's prompt walk shows (:mod:`icl_lens.report.walk`, with the same charts and script), and in
addition

- the flow and the attention of each head (:func:`icl_lens.studies.anchors.single_prompt.head_flows`),
- the prediction with each label word isolated (:func:`icl_lens.studies.anchors.single_prompt.isolate_label_words`),
- the prediction without the attention of the last position to each class of tokens, and under random controls
  (:func:`icl_lens.studies.challenges.ch_edge_cuts.last_position.cut_last_position`),
- the logit lens at the last position (:func:`icl_lens.models.logit_lens.logit_lens`),
- the attention of the last position to the label words (:mod:`icl_lens.studies.anchors.deep_attention.compute`).

All numbers are computed before the page is written, so that the page needs neither the model nor a network connection.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from icl_lens import resources
from icl_lens.artifacts import files
from icl_lens.errors import InputError
from icl_lens.models.language_model import LanguageModel
from icl_lens.models.logit_lens import logit_lens
from icl_lens.models.options import RunOptions
from icl_lens.models.tokenizing import tokenize_table
from icl_lens.network import model_cache, precision
from icl_lens.prompts.positions import TokenizedPrompt
from icl_lens.report import descriptions, one_prompt, walk
from icl_lens.studies import computing
from icl_lens.studies.anchors import isolated_positions, single_prompt
from icl_lens.studies.anchors.deep_attention.study import STUDY as DEEP_ATTENTION
from icl_lens.studies.anchors.flow.study import STUDY as FLOW
from icl_lens.studies.anchors.flow.study import Settings as FlowSettings
from icl_lens.studies.anchors.icl.study import STUDY as ICL
from icl_lens.studies.anchors.isolating import Settings as IsolationSettings
from icl_lens.studies.anchors.isolating import main_layers
from icl_lens.studies.anchors.isolation.study import STUDY as ISOLATION
from icl_lens.studies.anchors.tokens.study import STUDY as TOKENS
from icl_lens.studies.challenges.ch_edge_cuts import last_position
from icl_lens.studies.challenges.ch_edge_cuts.study import VARIANTS
from icl_lens.studies.study import Study

# Most tokens per layer in the logit lens, and most edges of all layers and heads. With more layers and heads, each head has
# fewer edges.
_LENS_TOKENS, _HEAD_EDGES = 3, 60_000

# Up to this number of edges in all layers, the drawn edges are chosen from all edges with a nonzero flow. Otherwise the study
# omits edges with little flow and little attention.
_EVERY_EDGE = 4_000_000

# Up to this number of tokens in all runs with one isolated label word, these are isolated in several numbers of layers.
_SWEPT_TOKENS = 2**14

# Maximum number of tokens in a prompt for which the attention to each class of tokens is cut: True if the runs share the keys
# and values of the earlier tokens, False otherwise.
_CUT_TOKENS = {True: 4096, False: 512}

# Names of the sets of columns in :mod:`icl_lens.studies.challenges.edge_sets`, in the order of the page.
_CLASS_TITLES = {
    "label": "label words",
    "after": "tokens after label words",
    "template": "template tokens",
    "stop": "stop words and punctuation",
    "content": "content words",
    "first": "first token",
    "all": "all tokens of the demonstrations",
}

# Height of the page in a notebook, in pixels.
_FRAME = 900


@dataclass(frozen=True)
class PromptPage:
    """The page of one prompt. A notebook shows it; :meth:`save` writes it.

    Attributes:
        title: Title of the page.
        model: The facts of the model (:attr:`icl_lens.models.language_model.LanguageModel.facts`).
        notes: Sentences on the model and the prompt with which the page should be read.
        data: The data of the page, JSON-compatible, in the format of :func:`icl_lens.report.walk.read`.
    """

    title: str
    model: Mapping[str, Any]
    notes: Sequence[str]
    data: Mapping[str, Any]

    @cached_property
    def html(self) -> str:
        """The page as HTML."""
        (prompt,) = self.data["prompts"]
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(resources.REPORT),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
        )
        return environment.get_template("walk.html.jinja").render(
            one=True,
            title=self.title,
            style=Markup((resources.REPORT / "report.css").read_text(encoding="utf-8")),
            model=self.model,
            weights=descriptions.weights(self.model),
            notes=self.notes,
            prompt=prompt,
            labels=self.data["labels"],
            walks=walk.packed([self.data]),
            charts=walk.charts(
                self.data["labels"], len(prompt["heads"]["saliency"][0]), float(np.max(prompt["attention"])) or 1.0
            ),
            edges=walk.EDGES,
            library=Markup(walk.library()),
            walk_script=Markup((resources.REPORT / "walk.js").read_text(encoding="utf-8")),
        )

    def save(self, path: Path | str) -> None:
        """Write the page to a file.

        Args:
            path: The file to write.

        Raises:
            InputError: The file cannot be written.
        """
        with files.whole_file(path) as temporary:
            temporary.write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        """Return the page as a frame, so that its styles and scripts do not affect the notebook."""
        return (
            f'<iframe sandbox="allow-scripts" title="{html.escape(self.title)}" '
            f'style="width: 100%; height: {_FRAME}px; border: 0" srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def __repr__(self) -> str:
        (prompt,) = self.data["prompts"]
        return f"<page of a prompt with {prompt['tokens']} tokens, model {self.data['model']}; save(path) writes it>"


def compute(
    model: LanguageModel,
    table: pd.DataFrame,
    options: RunOptions | None = None,
) -> PromptPage:
    """Compute the page of one prompt.

    Args:
        model: The model.
        table: Prompts table with one row. If ``gold`` is missing (NA), the information flow is that of the loss of the
            predicted class instead of the correct class.
        options: How to run the model and to write the prompt; the defaults if None.

    Raises:
        InputError: The prompt has no demonstration or is too long for the model's context, or the model cannot be used.
    """
    if len(table) != 1:
        raise InputError(f"a page shows one prompt, but the table has {len(table)} rows; choose one row")
    gold_known = bool(table["gold"].notna().all())
    table = table.assign(gold=table["gold"].fillna(0).astype("int64"))
    options = options or RunOptions()
    (prompt,) = tokenize_table(table, model.tokenizer, options)
    _require_usable(model, prompt)
    notes: list[str] = []
    with model_cache.remembered(model.network), precision.products(options.matmul, model.device):
        answers = computing.compute(ICL, model, table, options=options)
        answer = answers.rows
        if not gold_known:
            answer = answer.assign(gold=answer["prediction"])
            prompt = replace(prompt, gold=int(answer["prediction"].iloc[0]))
        found = _measure(model, prompt, options.batch_tokens, notes)
        data = _data(model, prompt, table.iloc[0], answer, found, gold_known)
    observed = answers.observed
    if observed["untrained"]:
        notes.append(
            f"The loss of {model.name} on this prompt is not below that of a uniform distribution over its vocabulary "
            f"({observed['next_token_loss']:.1f} and {observed['uniform_loss']:.1f} nats per token), so its predictions are "
            "not meaningful."
        )
    return PromptPage(f"Information flow in one prompt: {model.name}", _facts(model), notes, data)


@dataclass(frozen=True)
class _Measured:
    """Tables of the studies, each with the prompt's rows, and the further measurements."""

    tokens: pd.DataFrame
    flow: pd.DataFrame
    isolation: pd.DataFrame
    attention: pd.DataFrame
    words: pd.DataFrame
    cuts: pd.DataFrame | None
    lens: pd.DataFrame | None


def _measure(model: LanguageModel, prompt: TokenizedPrompt, batch_tokens: int, notes: list[str]) -> _Measured:
    """Run the studies. Append a sentence to ``notes`` for each measurement that this prompt or model does not allow."""

    def rows(study: Study, **settings: Any) -> pd.DataFrame:
        return study.function("compute")(model, prompts=[prompt], batch_tokens=batch_tokens, **settings)

    every = model.layers * len(prompt.ids) ** 2 / 2 <= _EVERY_EDGE
    flow = FlowSettings(prompt_ids=[prompt.prompt_id], **({"least": 0} if every else {}))
    runs = len(prompt.demo_labels) + 1
    swept = runs * len(prompt.ids) <= _SWEPT_TOKENS
    main = [main_layers(model.layers)]
    isolation = IsolationSettings(layers=main)
    try:
        isolated_positions.random_positions(prompt, isolation, 0, model.tokenizer.bos_token_id)
    except InputError:
        isolation = isolation.model_copy(update={"targets": ["label"]})
        notes.append("The prompt has too few tokens besides the label words for the random control of isolation.")
    if prompt.label_words:
        lens = None
        notes.append("The logit lens reads one position, so it is not available for whole label words (label_score: whole).")
    else:
        lens = logit_lens(model, [prompt], batch_tokens, _LENS_TOKENS)
        if lens is None:
            notes.append("The logit lens is not available for this model family.")
    most = _CUT_TOKENS[model.shares_prefixes]
    cuts = None
    if len(prompt.ids) <= most:
        cuts = last_position.cut_last_position(model, prompt, batch_tokens)
    else:
        notes.append(
            f"The prompt has {len(prompt.ids)} tokens, so the cuts of the attention to classes of tokens are left out; they "
            f"are computed for at most {most} tokens."
        )
    return _Measured(
        tokens=rows(TOKENS),
        flow=rows(FLOW, settings=flow),
        isolation=rows(ISOLATION, settings=isolation),
        attention=rows(DEEP_ATTENTION),
        words=single_prompt.isolate_label_words(model, prompt, batch_tokens, IsolationSettings(layers=None if swept else main)),
        cuts=cuts,
        lens=lens,
    )


def _data(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    row: pd.Series,
    answer: pd.DataFrame,
    found: _Measured,
    gold_known: bool,
) -> dict[str, Any]:
    """Return the data of the page, see :attr:`PromptPage.data`. The flow of the heads is computed here, layer by layer."""
    labels = [word.strip() for word in row["label_words"]]
    about = {"model": {"name": model.name, "layers": model.layers}}
    flow = found.flow.assign(seed=prompt.seed)
    of_prompt, places = walk.of_prompt(flow, found.tokens, answer, found.isolation, about, labels)
    attention = found.attention.pivot(index="layer", columns="class", values="attention")
    further = {
        "gold_known": gold_known,
        "demonstrations": [labels[label] for label in prompt.demo_labels],
        "anchor_words": [
            number
            for number, anchor in zip(prompt.anchor_demonstrations.tolist(), prompt.anchors.tolist(), strict=True)
            if anchor in places
        ],
        "heads": _heads(model, prompt, places),
        "isolated_words": [
            {"word": e.word, "side": e.side, "layers": e.layers, "probabilities": _rounded(np.exp(e.class_log_probs))}
            for e in found.words.itertuples()
        ],
        "cuts": None if found.cuts is None else _cuts(prompt, found.cuts, places),
        "attention": _rounded(attention.to_numpy()),
        "lens": None if found.lens is None else _lens(model, found.lens),
    }
    return {
        "model": model.name,
        "task": str(row["task"]),
        "labels": labels,
        "layers": model.layers,
        "prompts": [{**of_prompt, **further}],
    }


def _heads(model: LanguageModel, prompt: TokenizedPrompt, places: dict[int, int]) -> dict[str, Any]:
    """Return the strongest edges of each layer and head, and the share of each head in the flow of its layer."""
    kinds = one_prompt.kinds(prompt.anchors.tolist(), prompt.last)  # (T, T)
    saliency: list[Any] = [None] * model.layers
    attention: list[Any] = [None] * model.layers
    shares: dict[str, list[Any]] = {kind: [None] * model.layers for kind in ("all", *walk.KINDS)}

    def sink(layer: int, flow: np.ndarray, weights: np.ndarray) -> None:
        most = max(3, min(walk.EDGES, _HEAD_EDGES // (2 * model.layers * len(flow))))
        saliency[layer] = walk.strongest_of_heads(flow, places, kinds, most)
        attention[layer] = walk.strongest_of_heads(weights, places, kinds, most)
        total = max(flow.sum(), np.finfo(float).tiny)
        shares["all"][layer] = _rounded(flow.sum((1, 2)) / total)
        for kind in walk.KINDS:
            shares[kind][layer] = _rounded(flow[:, kinds == kind].sum(1) / total)

    single_prompt.head_flows(model, prompt, sink)
    return {"saliency": saliency, "attention": attention, "shares": shares}


def _cuts(prompt: TokenizedPrompt, cuts: pd.DataFrame, places: dict[int, int]) -> list[dict[str, Any]]:
    """Return the classes of tokens, each with its tokens, and its cuts and controls in each range of layers.

    The controls are means over the draws. A set or control that is not valid is None.
    """
    positions = last_position.columns_of(prompt)
    result = []
    for columns, title in _CLASS_TITLES.items():
        of_class = cuts[cuts["columns"] == columns]
        runs = []
        for (span, start, stop), of_span in of_class.groupby(["span", "start", "stop"], sort=False):
            variants = {variant: of_span[(of_span["variant"] == variant) & of_span["valid"]] for variant in VARIANTS}
            values = {variant: _cut(rows) if len(rows) else None for variant, rows in variants.items()}
            runs.append({"span": span, "start": int(start), "stop": int(stop), **values})
        result.append(
            {
                "name": columns,
                "title": title,
                "tokens": len(positions[columns]),
                "rows": [places[position] for position in positions[columns].tolist() if position in places],
                "runs": runs,
            }
        )
    return result


def _cut(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the means over the draws of a set or control, and the predicted class of each draw."""
    probabilities = np.exp(np.stack(rows["class_log_probs"].to_list()))  # (draws, C)
    return {
        "predictions": rows["prediction"].tolist(),
        "probabilities": _rounded(probabilities.mean(0)),
        "effect": round(float(rows["effect"].mean()), 3),
        "mass": round(float(rows["mass"].mean()), 3),
    }


def _lens(model: LanguageModel, lens: pd.DataFrame) -> dict[str, Any]:
    """Return the probabilities of the label words and the most likely tokens after each layer."""
    return {
        "probabilities": _rounded(np.exp(np.stack(lens["class_log_probs"].to_list()))),
        "label_probability": _rounded(lens["label_probability"].to_numpy()),
        "tokens": [
            [
                [descriptions.escaped(_text(model, token)), round(float(np.exp(log_prob)), 3)]
                for token, log_prob in zip(row.top_tokens, row.top_log_probs, strict=True)
            ]
            for row in lens.itertuples()
        ],
    }


def _text(model: LanguageModel, token: int) -> str:
    return model.tokenizer.decode([token], clean_up_tokenization_spaces=False).strip(" ") or one_prompt.BLANK


def _rounded(values: np.ndarray) -> list[Any]:
    return values.round(3).tolist()


def _facts(model: LanguageModel) -> dict[str, Any]:
    """Return the facts of a model that the page shows."""
    return {"family": "", "heads": None, "parameters": None, **model.facts, "name": model.name, "layers": model.layers}


def _require_usable(model: LanguageModel, prompt: TokenizedPrompt) -> None:
    """Check that a prompt has demonstrations and fits the context of a model.

    Raises:
        InputError: It does not.
    """
    if not len(prompt.anchors):
        raise InputError("the prompt has no demonstration, so it has no label words; add at least one demonstration")
    tokens = len(prompt.ids) + prompt.appended
    if model.context is not None and tokens > model.context:
        raise InputError(
            f"the prompt has {tokens} tokens, but the context of {model.name} has only {model.context} tokens; use "
            "fewer or shorter demonstrations"
        )

"""One function per study. `python -m icl_lens.api.stubs` writes this file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from icl_lens.api.model import Model
from icl_lens.api.results import Result
from icl_lens.api.tables import Prompts

__all__ = [
    "attention_controls",
    "ch_demonstrations",
    "ch_edge_cuts",
    "ch_labels",
    "ch_saliency",
    "components",
    "compress",
    "compression",
    "deep_attention",
    "diagnosis",
    "flow",
    "hidden_markov",
    "icl",
    "isolated_words",
    "isolation",
    "isolation_controls",
    "kernel_regression",
    "kernel_regression_controls",
    "label_probes",
    "latency",
    "prediction_similarity",
    "representation_change",
    "reweight",
    "reweighting",
    "rewritten",
    "saliency",
    "tokens",
]

def attention_controls(
    model: Model,
    prompts: Prompts,
    *,
    seed: int = 0,
    queries: int = 20,
    targets: list[Literal["label", "random", "newline", "template"]] = ["label", "random", "newline", "template"],
    blocking: Literal["before_softmax", "after_softmax"] = "before_softmax",
    random_scope: Literal["prompt", "demonstrations"] = "prompt",
    draws: int = 1,
    draw: Literal["order", "prompt"] = "order",
    orders: int = 10,
) -> pd.DataFrame:
    """Deep attention and predictions with shuffled labels and with an untrained copy of the model.

    Deep attention and predictions with two controls that the paper does not have: shuffled labels and an untrained copy.

    *Label Words are Anchors*, section 2.3: in deep layers, attention to the label words of a class predicts the model's output. An
    untrained copy has learned nothing that its attention could predict. With shuffled labels, the texts and labels do not match. If
    the model copies the label word that it attends to, attention still predicts its output, whether or not the output is correct.

    The scores come from `icl_lens.studies.anchors.label_attention`, as in deep attention, and the predictions from
    `icl_lens.models.answers`. The controls are in `icl_lens.studies.anchors.controls`.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        seed: Seed of the untrained copy's weights and of the label shuffling.
        queries: Number of prompts per seed (the first ones); all if there are fewer.
        targets: Positions that cannot attend to the text before them: the label words (label); the same number of
            random other tokens (random, the paper's control); the newline after each label word or, with `chat:
            turns`, the end of the assistant's turn (newline); the last template token before each label word
            (template). By default all four; for a template without a newline, or without a token before its label
            word, use a shorter list.
        blocking: before_softmax: attention scores are masked, so that an isolated token attends only to itself
            (released code). after_softmax: attention weights are set to 0 and the row is not renormalized (the
            paper's text).
        random_scope: Range of the random tokens. prompt: all positions except the last two, including the template
            and the query (released code). demonstrations: the positions before the last label word.
        draws: Number of draws of the random tokens. A draw is the same for all layers, sides and k.
        draw: order: each draw has several random orders of the tokens, and the prompts with the same order share the
            computation of their demonstrations. prompt: independent random tokens for each prompt, as in the released
            code; slower.
        orders: For draw: order, the number of random orders for each task, seed and draw. The prompts of a seed are
            divided evenly among them; the confidence interval over prompts resamples orders with their prompts.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `control` (string), `gold` (integer), `prediction` (integer), `layer` (integer), `class` (integer),
        `attention` (float). For a query without a gold label, `gold` is missing (NA).

        The rows of `icl_lens.studies.anchors.label_attention.class_attention` for one control after the other. The column
        ``control`` contains the name of the control. The columns gold and prediction (class indices) come from
        `icl_lens.models.answers.predict` and repeat in each row of a prompt.

        `class_attention` returns:
        One row per prompt, layer and class, in this order: prompt_id, layer (from 0), class (index), attention (a sum over
        heads and demonstrations, and therefore at most the number of heads; 0 for a class without a demonstration).

        `predict` returns:
        One row per prompt, in the order of the prompts, with the columns prompt_id, gold and prediction (class indices), and
        class_log_probs (C floats, log-softmax over the label words). If ``top_tokens`` is not 0, the table also has the column
        top_tokens (token ids, most likely first).

    Raises:
        InputError: An argument is invalid, or: see `icl_lens.studies.anchors.label_attention.class_attention`.
    """
    ...

def compression(
    model: Model,
    prompts: Prompts,
    *,
    positions: list[Literal["continued", "restarted"]] = ["continued"],
    draws: int = 5,
    accumulate: bool = False,
) -> pd.DataFrame:
    """Prediction with compressed demonstrations (a subset of keys and values).

    Predictions with compressed demonstrations, which keep only a few keys and values.

    *Label Words are Anchors*, section 3.2 (Table 2). Each method is compared with the full run of the same prompt in the same job:

        Text_anchor     a separate text with the template and label words of the demonstrations, without their texts
        Hidden_anchor   the keys and values, in all layers, of the same tokens within the full demonstrations
                        (`icl_lens.studies.anchors.compressed_demonstrations.kept_positions`)
        Hidden_random   the same positions, with the first token of each label word replaced by a random token of its
                        demonstration's text; each draw has new random tokens, equal for all prompts with the same demonstrations

    Only the first token of a label word is replaced; its further tokens are kept, as in the released code. With ``label_anchor:
    last``, only the last token is replaced, and with ``all``, as many different random tokens replace all tokens. The released
    ``compress_top.py`` never clears its mask, so its draw n keeps the random tokens of all draws up to n. The setting
    ``accumulate`` reproduces this.

    The comparison covers the predicted label and the sets of the 5 most likely tokens. Hidden_random-top, the draw with the highest
    label loyalty, is selected in `icl_lens.studies.anchors.compression.summary`.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        positions: Positions of the query after the kept keys and values: they continue after the full demonstrations
            (continued) or restart at 0 (restarted, as in the released compress.py for GPT2-XL). Table 2 shows each
            value in the list.
        draws: Number of draws of Hidden_random; Hidden_random-top is the best of them, chosen on one half of the test
            texts and evaluated on the other half. The paper uses 20.
        accumulate: Whether a draw also keeps the random tokens of all earlier draws, as in the released
            compress_top.py.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `method` (string), `draw` (integer), `positions` (string), `prediction` (integer), `correct` (boolean),
        `label_agrees` (boolean), `word_jaccard_5` (float). For a query without a gold label, `correct` is missing
        (NA).

        One row per prompt and condition, in this order, with the full run first: prompt_id, method, draw (always 0 except for
        hidden_random), positions, prediction (class index), correct, label_agrees, word_jaccard_5.

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, a demonstration has no token to draw,
            or the model's family does not support compression.
    """
    ...

def deep_attention(
    model: Model,
    prompts: Prompts,
) -> pd.DataFrame:
    """Attention of the last position to the label words of each class, in each layer.

    Attention of the last position to the label words of each class, in each layer.

    *Label Words are Anchors*, section 2.3 and appendix E. Let A_{h,l} be the attention matrix of head h in layer l, q the last
    position, and p_k the position of the k-th demonstration's label word (its first token). The score of class i in layer l is

        sum over k of class i, and over heads h, of A_{h,l}(q, p_k)

    With ``label_anchor: all``, the sum is also over the tokens of the label word of demonstration k.

    From these scores, `icl_lens.statistics.attention_auc` computes how well they predict the model's own output (AUCROC_l) and
    the share R_l that the layers up to l contribute (eq. 5).

    `icl_lens.studies.anchors.label_attention` computes the scores.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `layer` (integer), `class` (integer), `attention` (float).

        One row per prompt, layer and class, in this order: prompt_id, layer (from 0), class (index), attention (a sum over
        heads and demonstrations, and therefore at most the number of heads; 0 for a class without a demonstration).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, or the model's family is not supported.
    """
    ...

def diagnosis(
    model: Model,
    prompts: Prompts,
    *,
    pooled: Prompts,
    layer: int | None = None,
    directions: int = 10,
    sweep: list[int] = [5, 10, 20, 50, 100, 200],
) -> pd.DataFrame:
    """Class confusion predicted from the keys of the label words.

    Error diagnosis: class confusion predicted from the keys of the label words.

    *Label Words are Anchors*, section 3.3, eq. 11, and the released ``Error_analysis.ipynb``. In one layer, with all heads
    concatenated, let q_i be the query vector of the last position of prompt i, and k_c the key vector of the label word of class c
    (its first token; with ``label_anchor: all``, the mean over its tokens). Let v_m be the principal directions of the centered
    q_i, and sigma_m their standard deviations. The predicted confusion is

        k^_{c,m} = sigma_m v_m' k_c,          m = 1..M
        Confusion_pred(a, b) = ||k^_a - k^_b|| / max over pairs of ||k^_. - k^_.||

    A small value predicts that the model confuses a and b. The queries come from prompts with varying demonstrations
    (``pooled-1shot``), and the keys from one demonstration set per seed (``ordered-1shot``). The table also contains the mean
    prediction over the keys of all demonstration sets in the pool. The vectors are those before the rotary embedding, for
    consistency with GPT-2, which has none (`icl_lens.attention.keys_and_values.queries_and_keys`). A key that several heads
    share is repeated for each head. The real confusion is computed from the predictions
    (`icl_lens.studies.anchors.diagnosis.summary`).

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        pooled: A prompts table of the same queries with varying demonstrations (pooled-1shot). Accepts the same as
            `prompts`.
        layer: Layer of the query and key vectors, counted from 0. Empty: two thirds of the depth, as in the released
            notebook (layer 32 in a model of 48 layers).
        directions: Number of principal directions of the queries in Figure 6 (M; 10 in the paper).
        sweep: Values of M in Figure 14. A value above the number of directions (the number of queries per seed minus
            1, or the width) means all directions.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `keys` (string), `sets` (integer), `layer` (integer), `components` (integer), `components_there` (integer),
        `class_i` (integer), `class_j` (integer), `predicted_confusion` (float).

        One row per seed, source of the keys, M and pair of classes, in this order: prompt_id (of the first prompt of the seed,
        which has the seed's demonstrations), keys (``first``: the keys of this demonstration set; ``pool``: the mean over the
        distinct sets of the pooled prompts), sets (number of demonstration sets), layer (from 0), components (the requested M),
        components_there (the M that is used, limited by the number of directions), class_i < class_j, predicted_confusion
        (0 to 1; a small value predicts confusion).

    Raises:
        InputError: An argument is invalid, or: a seed has fewer than two pooled prompts, a class does not have
            exactly one demonstration, the keys of all classes are equal, the layer does not exist, or the model's
            family is not supported.
    """
    ...

def flow(
    model: Model,
    prompts: Prompts,
    *,
    seeds: int = 5,
    prompts_: int = 5,
    prompt_ids: list[int] | None = None,
    also: list[int] = [],
    least: float = 0.001,
    least_attention: float = 0.05,
) -> pd.DataFrame:
    """Information flow along each edge, for a few prompts.

    Information flow I_l(i, j) of a few prompts along each relevant edge.

        I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                       (*Label Words are Anchors*, section 2.1, eq. 1)

    `icl_lens.models.information_flow` computes I_l. The paper's Figure 1 draws two layers of one prompt. An edge goes
    from position j to a later position i; the diagonal is ignored. Edges with a small share of the layer's flow and a small
    attention weight are omitted. Each row contains the total flow of the layer, so that the omitted flow can be computed. Each row
    also contains the attention weight of the edge, and S_wp, S_pq and S_ww (eq. 2 to 4) of the layer. If tokens of label words are
    appended to the prompt (``label_score: whole``), the flow from a token of the prompt to an appended token counts as flow to the
    last position, because both predict tokens of label words.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        seeds: Number of seeds (the first ones) from which prompts are taken.
        prompts_: Number of prompts per seed (the first ones).
        prompt_ids: The prompt_id of each prompt to include, instead of `seeds` and `prompts`.
        also: The prompt_id of additional prompts to include. The prompts in items.figure_1.prompt and
            items.figure_2.prompt are added automatically.
        least: Edges with less flow than this share of the layer's largest are omitted; 0 keeps all edges with a
            nonzero flow.
        least_attention: Edges with at least this attention weight (mean over heads) are always kept.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `layer` (integer), `query` (integer), `key` (integer), `saliency` (float), `attention` (float), `layer_total`
        (float), `s_wp` (float), `s_pq` (float), `s_ww` (float).

        One row per prompt, layer and edge, in this order: prompt_id, layer (from 0), query (position i), key (position j < i),
        saliency (I_l(i, j)), attention (mean over heads of A_{h,l}(i, j)), layer_total (sum of I_l over all edges of the layer,
        including omitted edges), s_wp, s_pq, s_ww (of the layer). Edges are sorted by query, then by key. Each layer has at
        least one edge.

    Raises:
        InputError: An argument is invalid, or: a requested prompt does not exist, a selected prompt has no
            demonstration, the model's family is not supported, or the range of its number format is too small.
    """
    ...

def icl(
    model: Model,
    prompts: Prompts,
) -> pd.DataFrame:
    """The model's prediction for each prompt.

    In-context learning: the model's prediction for each prompt.

    The prediction is the label word with the highest logit at the last position (*Label Words are Anchors*, section 2; the released
    code's ``LMForwardAPI``). The table also contains the log-probabilities over the label words, and the ten most likely tokens of
    the whole vocabulary, which word loyalty compares. A prefix that several prompts share is computed once.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `gold` (integer), `prediction` (integer), `class_log_probs` (list of floats), `top_tokens` (list of integers).
        For a query without a gold label, `gold` is missing (NA).

        One row per prompt, in the order of the prompts: prompt_id, gold and prediction (class indices), class_log_probs (C
        floats: log-softmax over the label words), top_tokens (10 token ids, in descending order of probability).

    Raises:
        InputError: An argument is invalid, or the study cannot be run on this model or these prompts.
    """
    ...

def isolated_words(
    model: Model,
    prompts: Prompts,
    *,
    layers: int | None = None,
    blocking: Literal["before_softmax", "after_softmax"] = "before_softmax",
    words: int = 10,
) -> pd.DataFrame:
    """The most probable next tokens with isolated label words, for one prompt per class.

    Most likely next tokens with isolated label words, which show why word loyalty is needed in addition to label loyalty.

    *Label Words are Anchors*, section 2.2 and appendix C (Table 5): with label words isolated in the first layers, the predicted
    label may stay the same although the most likely tokens of the whole vocabulary change. The runs come from
    `icl_lens.models.isolated_runs`, with isolation in the first or in the last k layers.

    The paper shows one prompt and does not report how it was selected. This study selects, for each class, the first prompt of the
    class that the model predicts correctly, or the first prompt of the class if there is no correct prediction.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        layers: Number k of first layers and of last layers. Empty: 5, or a fifth of the depth, rounded up, in models
            with fewer than 14 layers.
        blocking: before_softmax: attention scores are masked, so that an isolated token attends only to itself
            (released code). after_softmax: attention weights are set to 0 and the row is not renormalized (the
            paper's text).
        words: Number of most probable next tokens to store.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `gold` (integer), `side` (string), `layers` (integer), `prediction` (integer), `top_tokens` (list of strings),
        `top_log_probs` (list of floats).

        One row per prompt and condition, in the order of the prompts: prompt_id, gold (class index), side (none, first or last:
        the layers in which label words are isolated), layers (k; 0 for none), prediction (class index), top_tokens (texts of
        the most likely next tokens, in descending order of probability), top_log_probs (their log-probabilities, in nats).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, the settings request more layers than
            the model has, or the model's family is not supported.
    """
    ...

def isolation(
    model: Model,
    prompts: Prompts,
    *,
    targets: list[Literal["label", "random", "newline", "template"]] = ["label", "random"],
    layers: list[int] | None = None,
    blocking: Literal["before_softmax", "after_softmax"] = "before_softmax",
    random_scope: Literal["prompt", "demonstrations"] = "prompt",
    draws: int = 2,
    draw: Literal["order", "prompt"] = "order",
    orders: int = 10,
) -> pd.DataFrame:
    """Predictions with isolated label words or other tokens, which cannot attend to the text before them.

    Predictions with isolated label words, which cannot attend to the text before them.

    *Label Words are Anchors*, section 2.2 and appendix D. In all heads of the first or the last k layers, D positions p are blocked
    from attending to all earlier positions. These positions are the label words or control positions
    (`icl_lens.studies.anchors.isolated_positions`). With attention weights A,

        before the softmax (released code, default)     A(p, j) = 0 for j < p, and A(p, p) = 1
        after the softmax (the paper's text)            A(p, j) = 0 for j < p, and A(p, p) is unchanged; the row is not renormalized

    The isolated run is compared with the plain run of the same prompt, made in the same job. The comparison covers the predicted
    label and the overlap of the sets of the 5 (paper) and 10 (released notebook) most likely tokens.

    `icl_lens.studies.anchors.isolated_runs` performs the runs.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        targets: Positions that cannot attend to the text before them: the label words (label); the same number of
            random other tokens (random, the paper's control); the newline after each label word or, with `chat:
            turns`, the end of the assistant's turn (newline); the last template token before each label word
            (template).
        layers: Numbers k of first layers and of last layers. Empty: 1, 3, 5 and 7 in models with at least 14 layers;
            in smaller models, each k from 1 to half the depth, and a fifth of the depth, rounded up (Figure 4).
        blocking: before_softmax: attention scores are masked, so that an isolated token attends only to itself
            (released code). after_softmax: attention weights are set to 0 and the row is not renormalized (the
            paper's text).
        random_scope: Range of the random tokens. prompt: all positions except the last two, including the template
            and the query (released code). demonstrations: the positions before the last label word.
        draws: Number of draws of the random tokens. A draw is the same for all layers, sides and k.
        draw: order: each draw has several random orders of the tokens, and the prompts with the same order share the
            computation of their demonstrations. prompt: independent random tokens for each prompt, as in the released
            code; slower.
        orders: For draw: order, the number of random orders for each task, seed and draw. The prompts of a seed are
            divided evenly among them; the confidence interval over prompts resamples orders with their prompts.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `target` (string), `side` (string), `layers` (integer), `draw` (integer), `order` (integer), `prediction`
        (integer), `label_agrees` (boolean), `word_jaccard_5` (float), `word_jaccard_10` (float).

        One row per prompt and condition, in this order: prompt_id, target, side, layers (k), draw (always 0 except for random),
        order (number of the prompt's random order), prediction (class index), label_agrees, word_jaccard_5, word_jaccard_10.

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration or lacks the tokens to isolate, the
            settings request more layers than the model has, or the model's family is not supported.
    """
    ...

def isolation_controls(
    model: Model,
    prompts: Prompts,
    *,
    seed: int = 0,
    queries: int = 20,
    targets: list[Literal["label", "random", "newline", "template"]] = ["label", "random", "newline", "template"],
    blocking: Literal["before_softmax", "after_softmax"] = "before_softmax",
    random_scope: Literal["prompt", "demonstrations"] = "prompt",
    draws: int = 1,
    draw: Literal["order", "prompt"] = "order",
    orders: int = 10,
) -> pd.DataFrame:
    """Isolation with shuffled labels and with an untrained copy of the model.

    Isolation with controls that the paper does not have: shuffled labels, an untrained copy, and tokens next to label words.

    *Label Words are Anchors*, section 2.2: isolating the label words in the first layers changes the prediction, but isolating the
    same number of random tokens does not. If the reason is that the model processes the demonstrations in these layers, the effect
    should be absent in an untrained copy. It may or may not be present if texts and labels do not match (shuffled labels). The
    newline after a label word and the template token before it are adjacent to the label word but contain no label.

    The runs come from `icl_lens.studies.anchors.isolated_runs`, with Figure 4's number of first or last layers. The runs of
    each control are compared with the plain runs of the same control. The controls are in
    `icl_lens.studies.anchors.controls`.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        seed: Seed of the untrained copy's weights and of the label shuffling.
        queries: Number of prompts per seed (the first ones); all if there are fewer.
        targets: Positions that cannot attend to the text before them: the label words (label); the same number of
            random other tokens (random, the paper's control); the newline after each label word or, with `chat:
            turns`, the end of the assistant's turn (newline); the last template token before each label word
            (template). By default all four; for a template without a newline, or without a token before its label
            word, use a shorter list.
        blocking: before_softmax: attention scores are masked, so that an isolated token attends only to itself
            (released code). after_softmax: attention weights are set to 0 and the row is not renormalized (the
            paper's text).
        random_scope: Range of the random tokens. prompt: all positions except the last two, including the template
            and the query (released code). demonstrations: the positions before the last label word.
        draws: Number of draws of the random tokens. A draw is the same for all layers, sides and k.
        draw: order: each draw has several random orders of the tokens, and the prompts with the same order share the
            computation of their demonstrations. prompt: independent random tokens for each prompt, as in the released
            code; slower.
        orders: For draw: order, the number of random orders for each task, seed and draw. The prompts of a seed are
            divided evenly among them; the confidence interval over prompts resamples orders with their prompts.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `control` (string), `target` (string), `side` (string), `layers` (integer), `draw` (integer), `order`
        (integer), `prediction` (integer), `label_agrees` (boolean), `word_jaccard_5` (float), `word_jaccard_10`
        (float).

        The rows of `icl_lens.studies.anchors.isolated_runs.compare` for one control after the other. The column
        ``control`` contains the name of the control.

        `compare` returns:
        One row per prompt and condition, in this order: prompt_id, target, side, layers (k), draw (always 0 except for random),
        order (number of the prompt's random order, also for the other targets, so that conditions can be paired; see
        `order_of`), prediction (class index), label_agrees, word_jaccard_5,
        word_jaccard_10.

    Raises:
        InputError: An argument is invalid, or: see `icl_lens.studies.anchors.isolated_runs.compare`.
    """
    ...

def latency(
    model: Model,
    prompts: Prompts,
    *,
    prompts_: int = 5,
    repeats: int = 5,
) -> pd.DataFrame:
    """Latency of a query with full and with compressed demonstrations.

    Latency of a query with compressed demonstrations, compared with a forward pass over the full prompt.

    *Label Words are Anchors*, section 3.2 and appendix I (Tables 3 and 6). Three methods compute the logits at the same position:

        full            the full prompt in one forward pass (the paper's baseline)
        hidden_anchor   the query with the K kept positions of its demonstrations as prefix
        shared          the query with all P positions of its demonstrations as prefix; this is exact, and the prefix is also
                        computed once

    Only the forward pass up to the logits at the last position is timed, with the model's own attention kernel. The inputs are
    already on the device, there is no decoding, and the device is synchronized before the timer starts and before it stops. As in
    the paper, the time does not include the pass over the demonstrations, which runs once for all queries. Each pass runs once
    before it is timed, and the methods alternate. The paper compares one prompt at a time. Batches of all prompts of a seed
    additionally measure the throughput.

    Times vary between machines and between runs. If weights are read from main memory or the disk for each pass, the times are
    mostly those of reading them. Therefore the metadata of the table has the devices of layers that are not all on one device.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        prompts_: Number of timed prompts per seed (the first ones).
        repeats: Number of timed runs per prompt, after one run that is not timed.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `method` (string), `prompts` (integer), `repeat` (integer), `seconds` (float), `prompt_tokens` (float),
        `cache_tokens` (integer), `query_tokens` (float), `demo_words` (integer), `query_words` (float).

        One row per timed pass, method and repeat: prompt_id (of the first prompt for a batch), method, prompts (number of
        prompts timed together; 1 for the paper's comparison), repeat, seconds, prompt_tokens (mean length of the full prompts),
        cache_tokens (number of tokens in the KV cache: 0, K or P), query_tokens (mean length of the queries, including the
        template), demo_words and query_words (numbers of whitespace-separated words of the raw texts, L_demo and L_x in Table
        6).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, or the model's family does not support
            compression.
    """
    ...

def reweighting(
    model: Model,
    prompts: Prompts,
    *,
    train: Prompts,
    baseline: Prompts,
    learning_rate: float = 0.01,
    epochs: int = 10,
    auxiliary: int = 4,
    seed: int = 0,
    shots: int = 5,
) -> Result:
    """Predictions with re-weighted attention to label words, with unchanged attention, and with more demonstrations.

    Anchor re-weighting: a trained factor on the attention of the last position to the label word of each demonstration.

    *Label Words are Anchors*, section 3.1, eq. 9 and 12, and appendix H. With A the attention weights of layer l and head h, q the
    last position, and p_i the label word of demonstration i,

        A_hat(q, p_i) = exp(beta^i_{l,h}) A(q, p_i)

    after the softmax. The row is not renormalized (released code). beta starts at 0, which does not change the attention. Adam
    trains it on further training texts with the same demonstrations, one text at a time. The loss is the cross-entropy of the gold
    label over the label words. The model's weights are frozen.

    With ``label_anchor: all``, the factor of demonstration i applies to each token of its label word. If classes are predicted by
    whole label words (``label_score: whole``), q is the last position and each appended token of a label word, because each of them
    predicts a token (`icl_lens.prompts.label_words`).

    The keys and values of all positions except the last do not depend on beta. The model therefore reads all but the last token of
    each training prompt once, without gradients, and each step runs only the last token, forward and backward. Training keeps the
    keys and values of a seed's demonstrations, once for all prompts, and those of its training texts. It therefore fits in memory
    if inference fits.

    The re-weighted predictions are compared with those for the unchanged prompts, and with those for prompts with more
    demonstrations per class. The additional demonstrations are the training texts, as many as fit into the context.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        train: A prompts table with training texts as queries and the same demonstrations (shared-1shot-auxiliary).
            Accepts the same as `prompts`.
        baseline: A prompts table of the same queries with more demonstrations (shared-5shot). Accepts the same as
            `prompts`.
        learning_rate: Learning rate of Adam (the paper's value; the default of the released code is 0.1).
        epochs: Number of passes over the training examples, one example at a time.
        auxiliary: Number of training examples per class. They follow the demonstrations in the same random draw.
        seed: Seed of the order of the training examples, which is drawn anew in each epoch.
        shots: Maximum number of demonstrations per class of the baseline without re-weighting. If prompts are longer
            than the model's context, it is the largest number with which all prompts fit.

    Returns:
        A pair of the table and the tensors by name, `Result(rows, tensors)`. A table with the columns `model` (name
        of the model), `task` (name of the task), `set` (name of the prompt set), `seed` (seed with which the prompt
        was drawn), `prompt_id` (id of the prompt; in a list of prompts, its position), `query_index` (number of the
        query's text), `demonstrations` (number of the demonstration set), `method` (string), `shots` (integer),
        `gold` (integer), `prediction` (integer), `correct` (boolean), `class_log_probs` (list of floats).

        A pair of rows and tensors. One row per prompt and method, in this order: prompt_id, method, shots, gold and prediction
        (class indices), correct, class_log_probs (C floats: log-softmax over the label words). Tensors for each seed:
        ``beta_SEED``, shape (L, H, D), ``losses_SEED``, shape (E,), and ``classes_SEED``, the class of each demonstration,
        shape (D,).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, a seed has no training prompt, the loss
            leaves the range of the number format, or the model's family is not supported.
    """
    ...

def saliency(
    model: Model,
    prompts: Prompts,
) -> pd.DataFrame:
    """S_wp, S_pq and S_ww for each prompt and layer.

    Information flow by saliency: S_wp, S_pq and S_ww in each layer (*Label Words are Anchors*, section 2.1, eq. 1-4).

        I_l = | sum_h  A_{h,l} * dL/dA_{h,l} |                                                    (eq. 1)

    L is the cross-entropy of the query's gold label over the label words, A_{h,l} is the attention matrix of head h in layer l, and
    * is the elementwise product. The diagonal of I_l is set to 0. With p_k the position of the k-th demonstration's label word, q
    the last position, and positions counted from 0,

        S_wp = mean of I_l(p_k, j) over k and j < p_k          flow from the text to label words                  (eq. 2)
        S_pq = mean of I_l(q, p_k) over k                      flow from label words to the last position         (eq. 3)
        S_ww = mean of I_l(i, j) over all other j < i          flow between all other words                       (eq. 4)

    If a label word has several anchors, or if classes are predicted by whole label words, the sums are over the edges of
    `icl_lens.models.edges`.

    The table contains these raw means for each prompt and layer. It also contains variants that are not in the paper:

        s_wp_visible, s_pq_visible, s_ww_visible    the means over the edges that can exist in the layer: in a layer with a sliding
                                                    window, an edge from outside the window carries no flow, but eq. 2 to 4 count it
        s_wp_bos                                    the part of s_wp from a BOS token at position 0, which eq. 2 counts as text
        s_wp_no_bos                                 eq. 2 over j from 1 if the token at position 0 is a BOS token

    `icl_lens.studies.anchors.saliency.summary` computes the shares and averages for the figures.

    `icl_lens.models.information_flow` computes I_l.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `layer` (integer), `s_wp` (float), `s_pq` (float), `s_ww` (float), `s_wp_visible` (float), `s_pq_visible`
        (float), `s_ww_visible` (float), `s_wp_bos` (float), `s_wp_no_bos` (float).

        One row per prompt and layer, in this order: prompt_id, layer (from 0), s_wp, s_pq, s_ww, s_wp_visible, s_pq_visible,
        s_ww_visible, s_wp_bos, s_wp_no_bos. A mean over no edges is 0. Without a BOS token, s_wp_bos is 0 and s_wp_no_bos is
        s_wp.

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, the model's family is not supported, or
            the range of its number format is too small.
    """
    ...

def tokens(
    model: Model,
    prompts: Prompts,
) -> pd.DataFrame:
    """The tokens of each prompt, their positions, and which of them are label words.

    Tokens of each prompt: each token, its span in the text, and which tokens are label words.

    Figures use this table to label a model's results with the prompt's tokens. The positions are the same as in all other studies.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `position` (integer), `token` (string), `start` (integer), `end` (integer), `class` (integer), `last`
        (boolean).

        One row per prompt and position, in this order: prompt_id, position (from 0), token (its characters in the text, or the
        tokenizer's decoded text if it has no characters), start and end (its span [start, end) in the prompt's text, in
        characters), class (class index for an anchor, by default
        the first token of a label word; -1 for other tokens), last (whether it is the last
        position, at which the model predicts).

    Raises:
        InputError: An argument is invalid, or the study cannot be run on this model or these prompts.
    """
    ...

def hidden_markov(
    *,
    tasks: int = 8,
    states: int = 80,
    observations: int = 100,
    transition_concentration: float = 0.02,
    emission_concentration: float = 0.002,
    length: int = 10,
    pretraining: int = 4000,
    ridge: float = 0.0001,
    clip: bool = True,
    demonstrations: list[int] = [1, 2, 4, 8, 16, 32, 64, 128],
    limit: int = 4096,
    trials: int = 100,
    seeds: list[int] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
) -> pd.DataFrame:
    """Kernel regression against the exact posterior of random HMMs.

    Kernel regression and the exact Bayesian posterior on hidden Markov models, for which both can be computed.

    *In-context learning as kernel regression* (Han et al., TMLR 2025), appendix C, Table 3. The paper does not say how its random
    models are drawn. The following procedure is ours, and each number in it is a setting.

    **The model.** One merged hidden Markov model with transition matrix T (S, S) and emissions B (S, O) contains G tasks. T is
    block-diagonal. Each task has a block of S/G states and begins in the first state of its block, s_g. A state emits a token and
    then moves to the next state. Each row of T (within its block) and of B is drawn from a symmetric Dirichlet distribution. A
    sequence of the pre-training distribution is generated by drawing a task uniformly and emitting tokens from its chain, starting
    in s_g.

    **A prompt** of task g is

        x_1 y_1 d x_2 y_2 d ... x_n y_n d x

    The chain of task g emits each x_i y_i and x, starting in s_g each time. Each x has L tokens, and the label y is the token that
    follows. The delimiter d is not one of the O tokens. It is emitted after each label in every task, and the chain then starts
    again in s_g. The delimiter therefore carries no information about the task and resets the state, so the demonstrations are
    independent given the task. The observable operator of a token sequence is T_o = prod_t diag(B[:, o_t]) T. The observable
    operator of a delimiter is the step back to s_g.

    **The posterior** of the label is exact. With alpha_g(o) = e_{s_g}' T_o from the forward algorithm,

        P(g | prompt) ~ (1/G) prod_i P_g(x_i y_i) P_g(x),      P(y | prompt) = sum_g P(g | prompt) alpha_g(x) B[:, y] / P_g(x)

    **Kernel regression** (eq. 6) uses a plain dot product without an exponential:

        K(x, x') = vec(T_x)' Sigma^-1 vec(T_x'),      y_hat = sum_i e(y_i) K(x, x_i) / sum_i K(x, x_i)

    Sigma is the second moment of vec(T_x) over pre-training sequences, with a ridge. Only the rows of T_x for the starting states
    s_g are relevant to any sequence, and in each of these rows only the task's own block is nonzero. vec(T_x) therefore has S
    entries. It is divided by the probability of the sequence, sum_g alpha_g(x) 1 / G, because T_x shrinks with each token. (The
    result is G times the posterior of task and state after x.) A negative K counts as 0. If all K are 0, all demonstrations have
    the same weight.

    The distance between y_hat and P(y | prompt) is the sum of absolute differences (L1). Both predict their most likely label. (We
    infer from the paper's table that its distance is L1: with one demonstration, y_hat is a unit vector, and half of the distance
    1.322 is 1 minus the accuracy .337.)

    Args:
        tasks: Number of tasks, which are equally frequent in the pre-training distribution (8 in the paper).
        states: Number of hidden states of the merged model, divided equally among the tasks (80 in the paper).
        observations: Number of tokens that a state can emit, without the delimiter (100 in the paper).
        transition_concentration: Parameter of the Dirichlet distribution of each row of transitions within a task
            (ours; the paper does not state it). A small value makes transitions nearly deterministic.
        emission_concentration: Parameter of the Dirichlet distribution of each state's emissions (ours; it determines
            the level of the table).
        length: Number of tokens of x, before the label (ours; the paper does not state it).
        pretraining: Number of pre-training sequences from which the kernel's second moment is computed (ours).
        ridge: Ridge on the diagonal of the second moment, as a share of its mean diagonal entry (ours).
        clip: Whether negative kernel values are set to 0 (ours; the paper does not state it).
        demonstrations: Numbers n of demonstrations (the paper's values).
        limit: Number of demonstrations of one task, shared by all its prompts, that approximates infinitely many
            (ours). The distance with this number of demonstrations is the lower limit of the distance.
        trials: Number of prompts per model (ours; the paper does not state it).
        seeds: Seeds of the models, one model per seed (ours; the paper does not state the number).

    Returns:
        A table with the columns `seed` (integer), `trial` (integer), `task` (integer), `n` (integer), `limit`
        (boolean), `distance` (float), `agrees` (boolean), `correct` (boolean), `posterior_correct` (boolean),
        `weightless` (boolean), `confidence` (float).

        One row per seed, trial and n, with the limit last: seed (of the model), trial, task (of the prompt), n, limit (whether
        all prompts of the task share the demonstrations), distance (L1), agrees (whether both have the same most likely label),
        correct and posterior_correct (whether this label is the one that the chain emits), weightless (whether all kernel
        values are 0 after clipping), confidence (the posterior probability of its most likely label).

    Raises:
        InputError: An argument is invalid, or: kernel values without clipping have a sum close to 0, so that a vote
            has no bounds.
    """
    ...

def kernel_regression(
    model: Model,
    prompts: Prompts,
    *,
    drop_first: bool = True,
    bins: int = 30,
    held_out: float = 0.3,
    seed: int = 0,
    permutations: int = 200,
    control_queries: int = 10,
    orders: int = 4,
    encoders: dict[str, str] = {},
) -> Result:
    """Attention of the last position to each demonstration, for each head, and similarity of the texts.

    In-context learning as kernel regression: how much the last position attends to each demonstration, for each head.

    *In-context learning as kernel regression* (Han et al., TMLR 2025). If in-context learning is the kernel regression (eq. 6)

        y_hat = sum_i e(y_i) K(x_test, x_i) / sum_i K(x_test, x_i)

    then attention from the last position to the demonstration (x_i, y_i) corresponds to the kernel. For a head, a_i is the
    *largest* weight in the last position's row over all tokens of the demonstration (section 5.2), and the head reconstructs

        y~ = argmax_c  sum_i a_i 1[y_i = c] / sum_i a_i

    `icl_lens.studies.kernel_regression.reconstruction` computes and scores this reconstruction. The rows of the table are
    those of `icl_lens.studies.kernel_regression.demonstration_attention`, which also includes two controls for the maximum.

    **The attention map** (Figure 2) is the whole row averaged over a seed's prompts. Each x_i, the demonstration without its label
    word, is resampled to 30 positions by linear interpolation between its tokens' weights, from the first token to the last. The
    query is resampled in the same way, together with the part of the template after it, up to and including the last position. Each
    y_i is one bin, the sum over its tokens. The order of the classes differs between seeds, so bins are aligned by the
    demonstration's position in the prompt. The bin of a text is an interpolated weight, not a sum of weights. The shares of a row
    that go to its parts are therefore stored separately, for each prompt.

    **Text kernels** (Table 2) are cosines between the query's text and the demonstrations' texts. They use TF-IDF vectors, with
    document frequencies from the prompts that are not held out, and the sentence encoders in the settings.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        drop_first: Whether position 0 is excluded from all demonstrations. Many heads attend strongly to the first
            token, whatever it is. Without a BOS token, position 0 belongs to the first demonstration and would be its
            maximum (our choice).
        bins: Number of positions to which each text is resampled in the attention map (30 in the paper).
        held_out: Share of each seed's prompts on which heads are scored. The heads are chosen on the other prompts
            (the paper holds out 300 of 1000). Prompts with the same test text are held out together.
        seed: Seed of the held-out split, of the permutations and of the orders in the controls.
        permutations: Number of permutations of the labels within prompts, for the null distribution.
        control_queries: Number of held-out prompts per seed that the controls run (the first ones); all if there are
            fewer.
        orders: Number of additional orders of the same demonstrations in the controls.
        encoders: Sentence encoders for the kernels in Table 2: name in the table -> folder with the encoder's
            checkpoint in safetensors, or a folder under `downloads` to which it is downloaded
            (downloads/models/OWNER--NAME/REVISION). The embedding of a text is the mean of its token vectors.

    Returns:
        A pair of the table and the tensors by name, `Result(rows, tensors)`. A table with the columns `model` (name
        of the model), `task` (name of the task), `set` (name of the prompt set), `seed` (seed with which the prompt
        was drawn), `prompt_id` (id of the prompt; in a list of prompts, its position), `query_index` (number of the
        query's text), `demonstrations` (number of the demonstration set), `layer` (integer), `head` (integer), `gold`
        (integer), `prediction` (integer), `demo_labels` (list of integers), `max` (list of floats), `mean` (list of
        floats), `label` (list of floats), `on_first` (float), `on_texts` (float), `on_labels` (float), `on_rest`
        (float), `on_query` (float), `on_end` (float). For a query without a gold label, `gold` is missing (NA).

        The rows of `attention_rows`, and these tensors:
        ``map`` (S, L, H, M), the mean over each seed's prompts, with M bins for x_1, y_1, ..., x_D, y_D and the query;
        ``map_seeds`` (S,); ``map_first`` (L, H, M), for only the first prompt; ``prompt_id`` (N,); ``cosine: NAME`` (N, D) for
        TF-IDF and each encoder. Entries for demonstrations that a prompt does not have are NaN.

        `attention_rows` returns:
        One row per prompt, layer and head, in that order: prompt_id, layer and head (from 0), gold and prediction (class
        indices; the prediction is the class with the highest score), demo_labels (D class indices), ``max``, ``mean`` and
        ``label`` (D floats each, see `icl_lens.studies.kernel_regression.settings.POOLINGS`), and one column ``on_...``
        for each of `icl_lens.studies.kernel_regression.settings.PARTS`, with the part's share of the row. The shares of a
        row sum to 1.

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, the model's family is not supported, or
            an encoder cannot be used.
    """
    ...

def kernel_regression_controls(
    model: Model,
    prompts: Prompts,
    *,
    drop_first: bool = True,
    bins: int = 30,
    held_out: float = 0.3,
    seed: int = 0,
    permutations: int = 200,
    control_queries: int = 10,
    orders: int = 4,
    encoders: dict[str, str] = {},
) -> pd.DataFrame:
    """Kernel regression with permuted inputs, flipped labels and reordered demonstrations.

    Controls of kernel regression that its reviewers requested: permuted inputs, flipped labels and reordered demonstrations.

    *In-context learning as kernel regression* (Han et al., TMLR 2025). A sum over demonstrations (eq. 6) does not depend on their
    order. Kernel regression therefore predicts that neither the prediction nor the reconstruction changes with the order of the
    demonstrations. The prediction of a language model may change. All controls use the same held-out prompts
    (`icl_lens.studies.kernel_regression.settings.CONTROLS`):

    - The texts of the demonstrations are permuted while the labels keep their positions, so that text and label no longer belong
      together. At least one text always gets a different label.
    - The label word of each class is replaced with the label word of the next class, and that of the last class with that of the
      first.
    - Whole demonstrations, text and label, are reordered.

    The rows of each control are those of `icl_lens.studies.kernel_regression.demonstration_attention`.
    `icl_lens.prompts.demonstrations.replace_demonstrations` rewrites the prompts.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        drop_first: Whether position 0 is excluded from all demonstrations. Many heads attend strongly to the first
            token, whatever it is. Without a BOS token, position 0 belongs to the first demonstration and would be its
            maximum (our choice).
        bins: Number of positions to which each text is resampled in the attention map (30 in the paper).
        held_out: Share of each seed's prompts on which heads are scored. The heads are chosen on the other prompts
            (the paper holds out 300 of 1000). Prompts with the same test text are held out together.
        seed: Seed of the held-out split, of the permutations and of the orders in the controls.
        permutations: Number of permutations of the labels within prompts, for the null distribution.
        control_queries: Number of held-out prompts per seed that the controls run (the first ones); all if there are
            fewer.
        orders: Number of additional orders of the same demonstrations in the controls.
        encoders: Sentence encoders for the kernels in Table 2: name in the table -> folder with the encoder's
            checkpoint in safetensors, or a folder under `downloads` to which it is downloaded
            (downloads/models/OWNER--NAME/REVISION). The embedding of a text is the mean of its token vectors.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `control` (string), `draw` (integer), `layer` (integer), `head` (integer), `gold` (integer), `prediction`
        (integer), `demo_labels` (list of integers), `max` (list of floats), `mean` (list of floats), `label` (list of
        floats). For a query without a gold label, `gold` is missing (NA).

        The rows of `attention_rows` (without the shares of
        the row's parts) for each control in turn, with ``control`` and ``draw`` (the number of the order; 0 for the other
        controls).

        `attention_rows` returns:
        One row per prompt, layer and head, in that order: prompt_id, layer and head (from 0), gold and prediction (class
        indices; the prediction is the class with the highest score), demo_labels (D class indices), ``max``, ``mean`` and
        ``label`` (D floats each, see `icl_lens.studies.kernel_regression.settings.POOLINGS`), and one column ``on_...``
        for each of `icl_lens.studies.kernel_regression.settings.PARTS`, with the part's share of the row. The shares of a
        row sum to 1.

    Raises:
        InputError: An argument is invalid, or: see `attention_rows`.
    """
    ...

def label_probes(
    model: Model,
    prompts: Prompts,
    *,
    queries: int = 30,
    offsets: list[int] = [-1, 0, 1, 2, 3],
    ridge: float = 0.01,
    folds: int = 5,
    tokens: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of linear probes of the keys and values around label words, for each head.

    Linear probes of the keys and values around label words, for each head and position.

    *In-context learning as kernel regression* (Han et al., TMLR 2025), Figure 5. If attention is the kernel regression of eq. 6, a
    demonstration's key should encode its text in the form that the kernel uses, and its value should encode the label. For each
    head and each position l_i + p near the label word of demonstration i (p = 0 is the word's first token), a ridge regression onto
    one-hot targets (penalty .01) predicts the class with the largest output:

        argmax_o P(o | x_i), the most likely next token after the text x_i alone, from the key
        y_i, the label, from the value

    (`icl_lens.studies.kernel_regression.single_texts` computes P(o | x_i).) With ``label_anchor: last``, p = 0 is the word's
    last token. With ``all``, p = 0 is the mean over its tokens, and p < 0 and p > 0 count from its first and from its last token.

    The paper does not say whether it uses keys before or after the rotary embedding, or on which data it fits the probes. This
    study reads both kinds of keys: before the embedding (``key``, independent of the token's position) and after it
    (``turned_key``). The means over the fitting data are subtracted from features and targets, in float64. The penalty is relative
    to sums over demonstrations, not to means. The **folds** divide the prompts. The fitting data excludes each demonstration with a
    text that is also tested. Heads that share a key and value count as one: here, a head is a key-value head, numbered as in the
    model.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        queries: Number of prompts per seed (the first ones); all if there are fewer. The features of all their
            demonstrations are in memory at the same time: 4 bytes x 3 x offsets x demonstrations x key and value
            heads of all layers x width.
        offsets: Positions to read, relative to the first token of a demonstration's label word (the paper's values).
        ridge: Penalty of the ridge regression, relative to sums over demonstrations (the paper's value).
        folds: Number of folds into which the prompts are divided. Each fold is tested once (ours).
        tokens: Number of most frequent next tokens that the probes distinguish. Texts with another most probable next
            token are excluded (ours).
        seed: Seed of the division into folds.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `feature` (string), `target` (string), `offset` (integer), `layer` (integer), `head` (integer), `fold`
        (integer), `fitted` (integer), `classes` (integer), `accuracy` (float), `majority` (float), `members` (list of
        integers), `asked` (list of integers), `right` (list of integers).

        One row per feature and target (`PROBES`), offset, layer,
        head (both from 0) and fold: prompt_id (of the fold's first prompt), fitted (number of demonstrations), classes (number
        of classes that the probe distinguishes), accuracy, majority (the accuracy of always predicting the most frequent class
        of the fitting data). For the fold's prompts that have tested demonstrations, the row also has ``members`` (prompt_id),
        ``asked`` and ``right`` (the numbers of tested and of correctly predicted demonstrations).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, there are fewer prompts than folds, a
            fold leaves no demonstration to fit on or to test, or the model's family is not supported.
    """
    ...

def prediction_similarity(
    model: Model,
    prompts: Prompts,
) -> pd.DataFrame:
    """Similarity of the next-token predictions for the query's text and for each demonstration's text.

    Prediction similarity: how similar the next-token distributions of a query's text and of each demonstration's text are.

    *In-context learning as kernel regression* (Han et al., TMLR 2025), eq. 9. Let P(. | x) be the distribution of the next token
    over the whole vocabulary after the text x alone (`icl_lens.studies.kernel_regression.single_texts`). The similarity

        s(x_1, x_2) = P(. | x_1)' P(. | x_2)

    is the probability that the same token follows both texts. It represents the kernel of eq. 6, so attention to a demonstration
    should increase with it (`icl_lens.studies.kernel_regression.prediction_similarity.summary`). This module does not read
    attention.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `similarity` (list of floats), `query_token` (integer), `demo_tokens` (list of integers).

        One row per prompt, in their order: prompt_id, similarity (D floats, from 0 to 1), query_token and demo_tokens (ids of
        the most likely next token after the query's text and after each demonstration's text).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstration, or no token ends inside a text.
    """
    ...

def rewritten(
    model: Model,
    prompts: Prompts,
    *,
    queries: int = 40,
    seed: int = 0,
    typos: float = 0.15,
    clauses: int = 2,
) -> pd.DataFrame:
    """Predictions for test texts rewritten with rare words, complex syntax or typos.

    In-context learning on rewritten test texts: rare words, complex syntax or typos.

    *In-context learning as kernel regression* (Han et al., TMLR 2025), Table 1.
    `icl_lens.studies.kernel_regression.rewritten.rewriting` defines the rules, and `icl_lens.models.answers` computes the
    predictions. All rewritings use the same prompts.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        queries: Number of prompts per seed (the first ones); all if there are fewer.
        seed: Seed of the typos and of the clauses.
        typos: Probability that a letter is swapped, dropped, doubled or mistyped (ours).
        clauses: Number of clauses that are put around each text (ours).

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `rewriting` (string), `gold` (integer), `prediction` (integer), `class_log_probs` (list of floats),
        `query_tokens` (integer), `replaced` (float). For a query without a gold label, `gold` is missing (NA).

        One row per rewriting and prompt, in that order: prompt_id, rewriting, gold and prediction (class indices),
        class_log_probs (C floats), query_tokens (number of tokens in the query's text), replaced (the share of words in the
        original text that have a rare synonym).

    Raises:
        InputError: An argument is invalid, or the study cannot be run on this model or these prompts.
    """
    ...

def components(
    model: Model,
    prompts: Prompts,
    *,
    templates: dict[str, Mapping[str, Any]] = {},
    queries: int = 50,
    budgets: list[int] = [12, 24],
    learning_rate: float = 0.05,
    l1: float = 0.01,
    sweep: list[float] = [0.0, 0.001, 0.1],
    epochs: int = 2000,
    calibration_epochs: int = 5000,
    patience: int = 3,
    check: int = 100,
) -> Result:
    """Predictions of each head and MLP, and of weighted sums of them, with several templates.

    Computation of the study ``components``: answers of individual heads and MLPs, and of their trained weighted sums.

    The study follows *When Parts Are Greater Than Sums* (Chang, Thomason, Jia; EMNLP 2024). Let g_j be the label logits that part j
    (a head or an MLP) writes at the last position (`icl_lens.studies.component_reweighting.decomposition`). Part j answers
    argmax_y g_j[y] (section 3). Re-weighted components answer argmax_y sum_j w_j g_j[y] with trained weights (section 5,
    `icl_lens.studies.component_reweighting.component_weights`).

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

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        templates: Task -> its further `templates` and its `contrast`. The paper's templates were never released.
            icl-lens has templates for its own tasks; any other task that is missing here gets two neutral templates,
            for example with Input and Output.
        queries: Maximum number of test texts per seed. Each is written with every template.
        budgets: Numbers of labelled texts that a method may use, at most 24, in ascending order.
        learning_rate: Learning rate of plain gradient descent on all labelled texts at once.
        l1: L1 coefficient: the weight of the sum of the absolute weights in the loss.
        sweep: Other values of l1, used with the largest budget.
        epochs: Maximum number of epochs of re-weighting.
        calibration_epochs: Maximum number of epochs of calibration.
        patience: Training stops after this total number of epochs (not in a row) without a new lowest loss.
        check: Interval, in epochs, at which training stops if all labelled texts are classified correctly.

    Returns:
        A pair of the table and the tensors by name, `Result(rows, tensors)`. A table with the columns `model` (name
        of the model), `task` (name of the task), `set` (name of the prompt set), `seed` (seed with which the prompt
        was drawn), `prompt_id` (id of the prompt; in a list of prompts, its position), `query_index` (number of the
        query's text), `demonstrations` (number of the demonstration set), `template` (string), `method` (string),
        `labels` (integer), `gold` (integer), `prediction` (integer).

        A table and tensors.

        The table has one row per template, method and prompt, in that order: prompt_id, template, method, labels (total number
        of labels that the method uses, including the demonstrations), gold, prediction (class indices). The contrast has only
        the method ``icl``.

        The tensors are: ``kind`` (index in `icl_lens.studies.component_reweighting.decomposition.KINDS`), ``layer`` and
        ``head`` of each part, shape (K,); ``prompt_id``, ``seed``, ``gold``, shape (N,). For each template T: ``parts_T``,
        shape (N, K, C), ``logits_T``, shape (N, C), ``attention_T`` and ``reconstruction_T``, shape (N, L, H) (``attention``
        and ``reconstructed`` of `Decomposition`). For each
        re-weighting method METHOD: ``weights_METHOD``, shape (S, T, M), for the M heads and MLPs in order, and
        ``epochs_METHOD`` and ``loss_METHOD``, shape (S, T). Seeds ascend and templates are in order.

    Raises:
        InputError: An argument is invalid, or: a seed has fewer labelled texts that fit the context than a budget, or
            the model's family cannot be decomposed.
    """
    ...

def representation_change(
    model: Model,
    prompts: pd.DataFrame | str | Path,
    *,
    seed: int = 42,
    lines: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    new_tokens: int = 6,
    permutations: int = 1000,
    folds: int = 5,
    penalty: float = 1.0,
) -> Result:
    """Changes of answers, representations and attention with examples, on paired prompts.

    Computation of the study ``representation_change``: answers, representations and attention with examples in context.

    The study follows Yousefi et al., "In-Context Learning in Large Language Models: A Neuroscience-inspired Analysis of
    Representations" (arXiv 2310.00313). No code was published, so what the text leaves open is our choice and a setting. Prompts
    are paired by their query. Each prompt is read once. The study keeps for each prompt:

    * the greedy answer, and the log-probability of each candidate answer, for models that are too small to write an answer in the
      right format;
    * one vector per layer and pooling: mean, maximum and last of the hidden states of the *query's own* tokens. Tokens of the
      examples are excluded, because prompts that share examples would otherwise be similar for that reason;
    * the attention of the last token r in each layer, averaged over heads and over the tokens of a set,

          a_l(S) = 1 / (H |S|) sum_h sum_{j in S} att_{l,h}(r, j),      A_l = a_l(s) / a_l(t)

      with s the relevant tokens (the y that the query shows; the activity that is asked for) and t the irrelevant ones (the x of
      the query; the activities of the distractors). Only these means are kept; no attention matrix is stored, for any model
      size.

    A condition is a number of examples, whether they are the control, and a number of distractors. Over the prompts of a condition,
    the vectors give the cosine of each pair of prompts (`icl_lens.statistics.similarity`), its alignment with each hypothesis
    (`icl_lens.studies.representation_change.hypotheses`) with a Mantel null, linear CKA, and probes
    (`icl_lens.statistics.probes`). The vectors are then discarded. The tensors contain the cosines and the results computed
    from them.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A paired_prompts table (a DataFrame, or the path of a file).
        seed: Seed of the prompts, of the permutations and of the folds.
        lines: Prompts of the regression task. A mapping; missing keys have their defaults: `slopes` (Slopes of the
            grid of lines); `intercepts` (Intercepts of the grid of lines); `queries_per_line` (Number of queries per
            line. The original study, as reconstructed from memory, has 16); `points` (Numbers of complete points
            before the last point of a list. The queries alternate between these numbers); `examples` (Numbers of
            complete lists before the query; must include 0).
        reading: Prompts of the reading task. A mapping; missing keys have their defaults: `distractors` (Numbers of
            sentences about other people. Each number is a separate panel); `queries` (Number of queries per number of
            distractors. A query is a pair from the 10 by 10 grid of names and activities); `examples` (Numbers of
            solved examples before the query; must include 0); `format` (hinted: with the words Question: and Answer:.
            bare: only the question).
        new_tokens: Maximum number of tokens of an answer, which is decoded greedily.
        permutations: Number of permutations of the prompts for a Mantel null distribution.
        folds: Number of folds on which a probe is tested. All prompts of a line or of a pair are in the same fold.
        penalty: C of the probe: the weight of its errors relative to its L2 penalty.

    Returns:
        A pair of the table and the tensors by name, `Result(rows, tensors)`. A table with the columns `model` (name
        of the model), `task` (name of the task), `set` (name of the prompt set), `seed` (seed with which the prompt
        was drawn), `prompt_id` (id of the prompt; in a list of prompts, its position), `query_index` (number of the
        query's text), `demonstrations` (number of the demonstration set), `query_id` (integer), `examples` (integer),
        `control` (boolean), `distractors` (integer), `truth` (string), `candidates` (list of strings),
        `truth_candidate` (integer), `components` (list of strings), `competing` (list of strings), `position`
        (integer), `place` (float), `answer` (string), `candidate_log_probs` (list of floats), `relevant` (list of
        floats), `irrelevant` (list of floats), `context` (list of floats), `relevant_tokens` (integer),
        `irrelevant_tokens` (integer), `context_tokens` (integer).

        A table and tensors by name.

        The table has one row per prompt, with the columns of
        `SCHEMA`.

        The names of the tensors for d distractors begin with ``d{d}.``. There are C conditions, layers 0 (embeddings) to L, Q
        poolings, H hypotheses, T probed components, P queries in the order of query_id and M pairs of queries: ``cosine`` (C, L
        + 1, Q, M); ``spearman``, ``pearson``, ``mantel_p``, ``null_high`` (95th percentile of the null), ``partial`` and
        ``cka`` (C, L + 1, Q, H); ``probe`` (C, L + 1, T, P), 1 where the probe of the first pooling is correct; and
        ``probe_commonest`` (T,), the majority baseline.

    Raises:
        InputError: An argument is invalid, or: a condition lacks a query, the tokens of a query do not match its
            span, or the family is not supported.
    """
    ...

def ch_demonstrations(
    model: Model,
    prompts: Prompts,
    *,
    queries: int = 5,
    control_queries: int = 1,
    demonstrations: int = 6,
    exact: int = 6,
    pairs: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Contribution of each demonstration to the gold margin (Shapley values), compared with saliency and attention.

    Contribution of each demonstration to the gold margin: Shapley values, and measures that are compared with them.

    v(S) is the margin of the gold class (`icl_lens.studies.challenges.margin`) for the prompt with the demonstrations S in
    their order, and v(empty) that of the query alone. `icl_lens.studies.challenges.ch_demonstrations.shapley` computes the
    Shapley values phi_i: from all subsets for at most ``exact`` demonstrations, and from sampled orders for more. Their sum is
    v(all) - v(empty). *Leave-one-out* is v(all) - v(all without i).

    A demonstration that is missing from S is

        deleted      not in the prompt, so the positions of later tokens change
        masked       in the prompt, but no later demonstration and no token of the query attends to it. Without a BOS token, the
                     first demonstration contains position 0, an attention sink in many models, so it is then masked as well
        unlabelled   in the prompt, but each token of its label word has the mean embedding of the first tokens of the label words.
                     With whole label words (``label_score: whole``), the n-th token has the mean embedding of the n-th tokens of
                     the label words with at least n tokens. The number of tokens of the label word does not change.

    The scores s_c of the classes are those of `icl_lens.models.logits`, from first tokens or whole label words.

    v(empty) differs from 0 because a model prefers some label words without any demonstration, and the sum of all phi_i contains
    this preference. ``calibrated`` is therefore phi of the margin of calibrated scores (contextual calibration, Zhao et al., arXiv
    2102.09690): with p_c the mean probability of label word c for the queries "N/A", "" and "[MASK]" after the demonstrations S,
    normalised over the label words, the score is s_c - log p_c.

    **Controls** are computed for the first prompts of each seed. One demonstration is drawn as the target.

        flipped      the target has the label of the next class
        nonsense     each word of the target's text is replaced by a nonsense word
        duplicate    the target occurs twice in a row, as two players
        reversed     all demonstrations in reverse order

    The other measures are defined in `icl_lens.studies.challenges.ch_demonstrations.measures`; ``similarity`` is the cosine of
    TF-IDF vectors of the texts of demonstration and query, with document frequencies in the texts of all prompts.

    Related work uses other games: DemoShapley (arXiv 2410.07523) averages over orders of the demonstrations in the prompt, and its
    value is the accuracy on other queries. Here, the order is fixed and the value is the gold margin of one query.

    Prompts with the same demonstrations share a tree of subsets
    (`icl_lens.studies.challenges.ch_demonstrations.trees`).

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        queries: Number of prompts per seed (the first ones); all if there are fewer.
        control_queries: Number of these prompts for which the controls are run (the first ones of each seed).
        demonstrations: Maximum number of demonstrations per prompt. The number per class is reduced to fit, to at
            least one.
        exact: Largest number of demonstrations for which Shapley values are computed from all subsets. With more
            demonstrations, orders are sampled.
        pairs: Number of sampled pairs of an order and its reverse.
        seed: Seed of the sample, of the controls and of the random measure.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `control` (string), `kind` (string), `measure` (string), `demonstration` (integer), `label` (integer),
        `changed` (boolean), `gold` (integer), `prediction` (integer), `value` (float), `error` (float), `margin`
        (float), `empty_margin` (float).

        One row per prompt, control (``none`` for the demonstrations of the prompt), kind of missing demonstrations, measure and
        demonstration: prompt_id, control, kind (``prompt`` for measures of the prompt with all demonstrations), measure
        (``shapley``, ``leave_one_out``, ``calibrated``, or one of
        `MEASURES`), demonstration (index, and K for the second copy
        of a duplicate), label (its class), changed (whether it is the target), gold, prediction (with all demonstrations; class
        indices), value, error (standard error of the value; 0 if it is exact), margin (v(all) of this control and kind) and
        empty_margin (v(empty)).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstrations, or the model's family is not
            supported.
    """
    ...

def ch_edge_cuts(
    model: Model,
    prompts: Prompts,
    *,
    queries: int = 3,
    window_queries: int = 1,
    draws: int = 5,
    tolerance: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Predictions without the attention edges to a class of tokens, compared with as many and with as strong random edges.

    Predictions of a model without some of its attention edges.

    Bai et al. (arXiv 2401.11323) hide classes of tokens of the demonstrations from the test example: content words, stop words with
    punctuation, and the template. Geva et al. (arXiv 2304.14767) cut the edges from the last position to some tokens in windows of
    layers. Bakalova et al. (arXiv 2504.00132) distinguish contextualisation (edges between demonstrations, and from a text to its
    label word) from aggregation (edges to the last position). This study cuts each set S of
    `icl_lens.studies.challenges.edge_sets` in all heads h of some layers l, by masking its scores before the softmax:

        A'[l, h, t, j] = 0                                                         for (t, j) in S
        A'[l, h, t, j] = A[l, h, t, j] / sum of A[l, h, t, i] over (t, i) not in S otherwise

    The diagonal is never in S. The layers are all layers, the two halves, and windows
    (`icl_lens.studies.challenges.ch_edge_cuts.study.spans`). Two controls cut random edges of the same rows instead
    (`icl_lens.studies.challenges.ch_edge_cuts.controls`). Each cut is compared with the uncut run of the same prompt.

    Differences from the papers: Bai et al. keep the label words visible in each condition, and have no random controls. Geva et al.
    measure the probability of the predicted token and use windows of 9 of 48 layers; here, a window has a third of the layers.
    Bakalova et al. replace keys and values by those of another prompt; here, the edges are cut. Here, position 0 is only in the set
    ``first``, so without a BOS token the first token of the first demonstration remains visible in all other cuts.

    If classes are predicted by whole label words (``label_score: whole``), the tokens of label words are appended to the prompt
    (`icl_lens.prompts.label_words`). They predict as the last position does, so the same edges are cut for them. The numbers
    of cut edges and tokens and the attention mass are those of the prompt.

    The computation. A cut changes only its rows and later positions, from its lowest layer on. Cuts in the row of the last position
    run one token, and cuts in the rows of the query run the query. Cuts in the rows of the demonstrations run the demonstrations
    once for all prompts that share them, and then each query. Each run starts at the lowest cut layer with the states of the uncut
    run.
    The conditions of one prompt form batches without padding (`icl_lens.studies.challenges.ch_edge_cuts.runs`).

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        queries: Number of prompts per seed (the first ones); all if there are fewer.
        window_queries: Number of prompts per seed for which the edges of query, label and demonstration rows are also
            cut in windows of layers. The edges of the last position are cut in windows for all prompts, because this
            costs less.
        draws: Number of draws of the random control.
        tolerance: Maximum relative difference in attention between a set of edges and its mass-matched control.
        seed: Seed of the controls.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `rows` (string), `columns` (string), `span` (string), `start` (integer), `stop` (integer), `variant` (string),
        `draw` (integer), `valid` (boolean), `gold` (integer), `prediction` (integer), `label_agrees` (boolean),
        `word_jaccard_5` (float), `margin` (float), `effect` (float), `own_effect` (float), `edges` (integer),
        `cut_tokens` (integer), `tokens` (integer), `mass` (float).

        One row per prompt for the uncut run (rows, columns, span and variant are ``none``), and one per prompt and condition:
        prompt_id, rows, columns, span (``all``, ``first half``, ``second half`` or ``window``), start, stop (the cut layers),
        variant (``set``, ``random`` or ``mass``), draw, valid (False if the set has no edge in the prompt or the control does
        not match it; the other values are then those of the uncut run), gold, prediction (class indices), label_agrees,
        word_jaccard_5, margin (of the gold class), effect and own_effect (change of the margin of the gold class, and of that
        of the uncut prediction), edges (number of cut edges, summed over the cut layers), cut_tokens (number of cut columns),
        tokens (number of positions of the prompt), mass (attention of the uncut run along the cut edges, averaged over the
        heads, the cut layers and the rows of the set).

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstrations, or the model's family is not
            supported.
    """
    ...

def ch_labels(
    model: Model,
    prompts: Prompts,
    *,
    queries: int = 10,
    flow_queries: int = 1,
    conditions: list[Literal["none", "gold", "inverted", "random", "random-true", "wrong", "one", "words", "letters", "strings"]] = ["none", "gold", "inverted", "random", "random-true", "wrong", "one", "words", "letters", "strings"],
    draws: int = 2,
    layers: int | None = None,
    content_free: list[str] = ["N/A", "", "[MASK]"],
    words: list[str] = ["Apple", "Bridge", "Candle", "Garden", "Hammer", "Island", "Jacket", "Kettle", "Lemon", "Mirror", "Needle", "Orange", "Paper", "Rabbit", "Saddle", "Tiger", "Velvet", "Window", "Carpet", "Desert", "Engine", "Falcon", "Ginger", "Helmet"],
    letters: list[str] = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S", "T", "U", "V", "W", "X", "Y", "Z"],
    strings: list[str] = ["foo", "bar", "vex", "nit", "orb", "wug", "dax", "zup", "blick", "quaz", "lem", "tove", "gyre", "plit", "snar", "yomp", "kez", "hurf", "jiv", "crux", "mib", "alk", "ilp", "dulf", "rask", "ceb"],
    seed: int = 0,
) -> pd.DataFrame:
    """Predictions, information flow and isolation with wrong, random or meaningless labels in the demonstrations.

    Predictions, information flow and isolation with other labels in the demonstrations, and without demonstrations.

    Min et al. (arXiv 2202.12837) find that random labels in the demonstrations hardly reduce the accuracy. Others find that models
    do not adopt inverted labels (arXiv 2511.21038), that they repeat the label if all demonstrations have the same one, and that
    they predict meaningless strings if these are the labels (arXiv 2605.08295). This study runs the same queries after the same
    demonstration texts in the same order, with the labels of `icl_lens.studies.challenges.ch_labels.versions`.

    With y the gold class of the query, f(y) the class whose label word the demonstrations give class y, and y_0 the prediction
    without demonstrations, `icl_lens.studies.challenges.ch_labels.summary` reports how often the prediction is y (truth), f(y)
    (prompt) and y_0 (prior). These definitions are ours. If the demonstrations of class y have different labels, f(y) is the most
    frequent one, and undefined for a tie.

    *Calibration* (Zhao et al., arXiv 2102.09690, and their code). With p_c the probability of the first token of label word c in
    the vocabulary, or with ``label_score: whole`` that of the whole label word, and q the mean of p over the content-free queries
    "N/A", "" and "[MASK]" after the same demonstrations, normalised over the classes, the calibrated prediction is argmax_c p_c /
    q_c.

    *Mechanism.* S_wp, S_pq and S_ww (`icl_lens.models.information_flow`) for the loss of y and for that of f(y), and the
    prediction with isolated label words (`icl_lens.models.isolated_runs`) in the first and in the last k layers. The control
    isolates random positions before the last anchor, as many as there are anchors. Prompts with the same demonstrations have the
    same random positions.

    Differences from the papers: Min et al. use 16 demonstrations; the figures here use one per class. Their label distribution is
    that of the training split; here it is that of the gold labels of the queries, because a prompts table has no other. They assign
    random words at random; here, the new words replace the label words one to one, as in their variant with gold labels. They
    compare Macro-F1. The code of the other papers was not available.

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        queries: Number of prompts per seed (the first ones); all if there are fewer.
        flow_queries: Number of these prompts per seed for which the information flow is measured and label words are
            isolated.
        conditions: Labels of the demonstrations: none (no demonstrations), gold, inverted (the label word of the next
            class), random (each label is drawn uniformly), random-true (drawn with the frequencies of the gold
            labels), wrong (drawn among the other classes), one (the same label in all demonstrations, for each
            class), and words, letters and strings (other label words, one for each class). none and gold are always
            run.
        draws: Number of draws of random, random-true and wrong labels.
        layers: Number of first and of last layers in which label words are isolated. Empty: 5, or a fifth of the
            depth, rounded up, in models with fewer than 14 layers (as in Figure 4).
        content_free: Texts without content. The predictions for them calibrate the others.
        words: Unrelated words for the condition words. The first suitable ones are used, if possible with as many
            tokens as the original label words.
        letters: Letters for the condition letters.
        strings: Meaningless strings for the condition strings.
        seed: Seed of the random labels and of the random isolated positions.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `condition` (string), `draw` (integer), `labels` (list of integers), `gold_share` (float), `gold` (integer),
        `shown` (integer), `zero_shot` (integer), `prediction` (integer), `calibrated` (integer), `log_probs` (list of
        floats), `content_free` (list of floats), `shown_mass` (float), `own_mass` (float), `s_wp` (list of floats),
        `s_pq` (list of floats), `s_ww` (list of floats), `shown_s_wp` (list of floats), `shown_s_pq` (list of
        floats), `shown_s_ww` (list of floats), `isolated_agrees` (list of integers), `isolated_overlap` (list of
        floats).

        One row per condition and prompt, in that order: prompt_id, condition, draw (for ``one``, the class), labels (class of
        each demonstration's label word), gold_share (share of the demonstrations with their own label; 0 without
        demonstrations), gold (y), shown (f(y); -1 if undefined), zero_shot (y_0), prediction, calibrated (class indices),
        log_probs (log-probability of the first token of each label word in the vocabulary, or of the whole label word, in
        nats), content_free (q), shown_mass and own_mass (sum of these probabilities over the label words in the
        demonstrations, and over the original label words; 0 without demonstrations for the former), s_wp, s_pq and s_ww (of
        each layer, for the loss of y), shown_s_wp, shown_s_pq and shown_s_ww (for the loss of f(y)), isolated_agrees and
        isolated_overlap (whether the prediction with isolated positions is the same, and the Jaccard index of the five most
        likely tokens, in the order of `icl_lens.studies.challenges.ch_labels.study.ISOLATED`). The lists of the flow and
        of isolation are empty for prompts that are not among the first ``flow_queries`` of their seed, and without
        demonstrations.

    Raises:
        InputError: An argument is invalid, or: the settings request more layers than the model has, a prompt has too
            few positions for the random control, the model's family is not supported, or the range of its number
            format is too small.
    """
    ...

def ch_saliency(
    model: Model,
    prompts: Prompts,
    *,
    queries: int = 1,
    steps: int = 32,
    random: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Attributions of the loss to attention edges, against the effect of cutting the edges.

    Attributions of the loss to attention edges, and the effect of cutting the edges.

    A is the attention of a layer after the softmax, z its product with the values, L the loss, and X a class of edges
    (`icl_lens.studies.challenges.ch_saliency.edge_classes`). For each prompt, layer and class:

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
    the loss (`icl_lens.studies.challenges.margin`), because the gradient of the loss vanishes for confident answers:

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
    `icl_lens.studies.challenges.ch_saliency.edge_classes`. An edge that several paths share, such as each edge between tokens
    of the prompt, is one edge: it is cut in all paths, and its dL/dA is the sum over the paths. For the sums over t of a head, an
    appended token that several label words share is likewise one position.

    *How it is computed.* A changes L only through z. With the values V and the gradient G = dL/dz, dL/dA = G V'. A cut is another z
    at the rows of X, and integrated gradients need only the mean of G over the points z (k - 0.5)/M, because A and V do not change.
    All of these runs start at the layer and at the first changed row (`icl_lens.studies.challenges.ch_saliency.reruns`).
    N is the number of tokens, including each appended token once (`icl_lens.studies.challenges.ch_saliency.token_tree`).

    Args:
        model: The model, from `icl_lens.load` or `icl_lens.wrap`.
        prompts: A prompt, a list of prompts, a prompts table (a DataFrame), or the path of a prompts table.
        queries: Number of prompts per seed (the first ones).
        steps: Number of points (midpoints of equal parts) of the integral of integrated gradients.
        random: Whether as many random edges as each class has are also attributed and cut, as a control.
        seed: Seed of the random edges.

    Returns:
        A table with the columns `model` (name of the model), `task` (name of the task), `set` (name of the prompt
        set), `seed` (seed with which the prompt was drawn), `prompt_id` (id of the prompt; in a list of prompts, its
        position), `query_index` (number of the query's text), `demonstrations` (number of the demonstration set),
        `layer` (integer), `edges` (string), `control` (boolean), `answer` (string), `quantity` (string), `count`
        (integer), `before` (float), `attention` (float), `value_zeroing` (float), `abs_of_sum` (float), `sum_of_abs`
        (float), `largest_head` (float), `signed` (float), `ig` (float), `truth_post` (float), `truth_pre` (float),
        `heads` (list of floats), `heads_michel` (list of floats), `heads_signed` (list of floats), `heads_ig` (list
        of floats), `heads_truth` (list of floats).

        One row per prompt, layer, class of edges, answer and quantity, in this order, with the columns of the module's
        docstring. A class without edges in a layer has no row. ``control`` marks the random counterpart of a class. ``count``
        is the number of edges.

    Raises:
        InputError: An argument is invalid, or: a prompt has no demonstrations, the model's family is not supported,
            or the range of its number format is too small.
    """
    ...

compress = compression
reweight = reweighting

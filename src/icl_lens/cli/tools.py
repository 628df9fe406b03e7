"""Commands that apply a model to the user's own texts: compress, reweight-components and classify."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from icl_lens.cli.options import BOS, Add, add_batch_tokens, add_model, add_reading, add_task, positive, quieten_transformers


def add(command: Add) -> None:
    """Add the commands for the user's own texts."""
    compress = command("compress", _compress, "read demonstrations once, and keep a few of their keys and values in a file")
    add_model(compress)
    add_task(compress)
    compress.add_argument("--demos", required=True, type=Path, help="the demonstrations: .jsonl or .csv with text and label")
    compress.add_argument("--out", required=True, type=Path, help="the cache to write, a safetensors file")
    compress.add_argument(
        "--keep", default="anchors", choices=("anchors", "all"), help="template and label words, or every position"
    )
    compress.add_argument("--name", help="the model's name in the cache; by default the folder's own, or the hub's")
    add_reading(compress)

    reweight = command(
        "reweight-components",
        _reweight_components,
        "weigh a model's heads and MLPs on a few labelled texts, and keep the weights",
    )
    add_model(reweight)
    add_task(reweight)
    reweight.add_argument("--train", required=True, type=Path, help="labelled texts: .jsonl or .csv with text and label")
    reweight.add_argument(
        "--demonstrations", type=positive, help="the first so many stand in the prompt; by default 4 (3 classes: 3, 6: 6)"
    )
    reweight.add_argument(
        "--settings", help="how weights are trained: the keys under `studies: components` in the config, as YAML"
    )
    reweight.add_argument("--out", required=True, type=Path, help="the weights to write, a safetensors file")
    reweight.add_argument("--name", help="the model's name in the file; by default the folder's own, or the hub's")
    add_batch_tokens(reweight)
    add_reading(reweight)

    classify = command(
        "classify", _classify, "classify texts behind compressed demonstrations, or by re-weighted components, as JSON lines"
    )
    add_model(classify)
    made = classify.add_mutually_exclusive_group(required=True)
    made.add_argument("--cache", type=Path, help="what `icl-lens compress` wrote, with the same model")
    made.add_argument("--components", type=Path, help="what `icl-lens reweight-components` wrote, with the same model")
    classify.add_argument("texts", nargs="?", default="-", metavar="FILE", help="the texts; standard input by default, or -")
    classify.add_argument(
        "--format",
        choices=("lines", "jsonl", "csv"),
        help='a text a line, an object with "text" a line, or a table with a column text; by default by the ending of FILE',
    )
    add_batch_tokens(classify)


def _compress(options: argparse.Namespace) -> None:
    from icl_lens.config import parse
    from icl_lens.tools import text_files

    task, _ = parse.parse_task(options.task, options.definition)
    texts, labels = text_files.demonstrations(options.demos, task)
    quieten_transformers()
    from icl_lens.tools.compress import compress

    compress(
        options.model,
        task,
        texts,
        labels,
        options.out,
        keep=options.keep,
        name=options.name,
        device=options.device,
        dtype=options.dtype,
        matmul=options.matmul,
        bos=BOS[options.bos],
        as_chat=options.chat,
    )


def _reweight_components(options: argparse.Namespace) -> None:
    from icl_lens.config import parse
    from icl_lens.prompts.sets import DEMONSTRATIONS, per_class
    from icl_lens.tools import text_files

    task, _ = parse.parse_task(options.task, options.definition)
    settings = parse.parse_settings("components", options.settings) if options.settings is not None else None
    texts, labels = text_files.demonstrations(options.train, task)
    classes = len(task.label_words)
    quieten_transformers()
    from icl_lens.tools.reweight import reweight

    reweight(
        options.model,
        task,
        texts,
        labels,
        options.demonstrations or per_class(DEMONSTRATIONS, classes) * classes,
        options.out,
        settings,
        name=options.name,
        device=options.device,
        dtype=options.dtype,
        matmul=options.matmul,
        bos=BOS[options.bos],
        as_chat=options.chat,
        batch_tokens=options.batch_tokens,
    )


def _classify(options: argparse.Namespace) -> None:
    import json

    from icl_lens.tools import text_files

    texts = text_files.texts(options.texts, options.format)
    quieten_transformers()
    from icl_lens.tools import classify

    made = options.components or options.cache
    answers = (classify.by_components if options.components else classify.behind_cache)(
        options.model, made, texts, options.device, options.batch_tokens, options.matmul
    )
    try:
        for answer in answers:
            print(json.dumps(answer._asdict(), ensure_ascii=False))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, for example `head`, closed the pipe early
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

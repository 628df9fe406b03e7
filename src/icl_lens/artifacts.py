"""Tidy tables with a contract: one schema a kind, whole files only, and provenance in the file itself.

Every step writes one Parquet file, one row per observation. A file is written under a temporary name and renamed, so a
run killed at any moment leaves either the whole file or none. Provenance (:mod:`icl_lens.provenance`) and what was
observed while computing (prompts left out, whether the model is trained) travel in the file's metadata.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_lens import provenance
from icl_lens.errors import InputError
from icl_lens.kernel_regression_plan import PARTS, POOLINGS

METADATA_KEY = b"icl_lens"

# Prompt sets whose tables are of a kind of their own: they have no label words.
PROMPT_SETS = {"paired": "paired_prompts"}

_SPAN = pa.list_(pa.int64())
_SPANS = pa.list_(_SPAN)
_STUDY_KEYS = [
    ("model", pa.string()),
    ("task", pa.string()),
    ("set", pa.string()),
    ("seed", pa.int64()),
    ("prompt_id", pa.int64()),
]
_ISOLATION = [
    ("target", pa.string()),
    ("side", pa.string()),
    ("layers", pa.int64()),
    ("draw", pa.int64()),
    ("prediction", pa.int64()),
    ("label_agrees", pa.bool_()),
    ("word_jaccard_5", pa.float64()),
    ("word_jaccard_10", pa.float64()),
]

# Attention to each demonstration, by layer and head. As single floats, as it was computed: there are very many.
_DEMONSTRATIONS = [
    ("layer", pa.int64()),
    ("head", pa.int64()),
    ("gold", pa.int64()),
    ("prediction", pa.int64()),
    ("demo_labels", pa.list_(pa.int64())),
    *((name, pa.list_(pa.float32())) for name in POOLINGS),
]
_PAIRED_KEYS = [key for key in _STUDY_KEYS if key[0] != "model"]
_PAIRED = [
    ("query_id", pa.int64()),
    ("examples", pa.int64()),
    ("control", pa.bool_()),
    ("distractors", pa.int64()),
    ("truth", pa.string()),
    ("candidates", pa.list_(pa.string())),
    ("truth_candidate", pa.int64()),
    ("components", pa.list_(pa.string())),
    ("competing", pa.list_(pa.string())),
    ("position", pa.int64()),
    ("place", pa.float64()),
]

# kind -> (version of the schema, columns). A version rises when a column changes its meaning.
SCHEMAS: dict[str, tuple[int, pa.Schema]] = {
    "corpora": (
        1,
        pa.schema([("split", pa.string()), ("index", pa.int64()), ("text", pa.string()), ("label", pa.int64())]),
    ),
    "prompts": (
        1,
        pa.schema(
            [
                ("task", pa.string()),
                ("set", pa.string()),
                ("seed", pa.int64()),
                ("prompt_id", pa.int64()),
                ("shots", pa.int64()),
                ("query_index", pa.int64()),
                ("demo_indices", pa.list_(pa.int64())),
                ("text", pa.string()),
                ("gold", pa.int64()),
                ("label_words", pa.list_(pa.string())),
                ("demo_labels", pa.list_(pa.int64())),
                ("label_spans", _SPANS),
                ("text_spans", _SPANS),
                ("query_span", _SPAN),
                ("prefix_spans", _SPANS),
            ]
        ),
    ),
    "training": (
        1,
        pa.schema(
            [
                ("step", pa.int64()),
                *((name, pa.float64()) for name in ("matching", "answer", "text", "first_seen", "documents")),
                ("accuracy", pa.float64()),
                ("rung", pa.float64()),
            ]
        ),
    ),
    "evaluation": (
        1,
        pa.schema(
            [
                ("step", pa.int64()),
                ("measure", pa.string()),
                ("on", pa.string()),
                ("classes", pa.int64()),
                ("shots", pa.int64()),
                ("prompts", pa.int64()),
                *((name, pa.float64()) for name in ("chance", "model", "top_token", "bag_of_words")),
            ]
        ),
    ),
    "icl": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("gold", pa.int64()),
                ("prediction", pa.int64()),
                ("class_log_probs", pa.list_(pa.float64())),
                ("top_tokens", pa.list_(pa.int64())),
            ]
        ),
    ),
    "saliency": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("layer", pa.int64()),
                ("s_wp", pa.float64()),
                ("s_pq", pa.float64()),
                ("s_ww", pa.float64()),
            ]
        ),
    ),
    "flow": (
        2,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("layer", pa.int64()),
                ("query", pa.int64()),
                ("key", pa.int64()),
                ("saliency", pa.float64()),
                ("attention", pa.float64()),
                ("layer_total", pa.float64()),
                *((name, pa.float64()) for name in ("s_wp", "s_pq", "s_ww")),
            ]
        ),
    ),
    "tokens": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("position", pa.int64()),
                ("token", pa.string()),
                ("start", pa.int64()),
                ("end", pa.int64()),
                ("class", pa.int64()),
                ("last", pa.bool_()),
            ]
        ),
    ),
    "isolated_words": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("gold", pa.int64()),
                ("side", pa.string()),
                ("layers", pa.int64()),
                ("prediction", pa.int64()),
                ("top_tokens", pa.list_(pa.string())),
                ("top_log_probs", pa.list_(pa.float64())),
            ]
        ),
    ),
    "isolation": (
        1,
        pa.schema([*_STUDY_KEYS, *_ISOLATION]),
    ),
    "compression": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("method", pa.string()),
                ("draw", pa.int64()),
                ("positions", pa.string()),
                ("prediction", pa.int64()),
                ("correct", pa.bool_()),
                ("label_agrees", pa.bool_()),
                ("word_jaccard_5", pa.float64()),
            ]
        ),
    ),
    "latency": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("method", pa.string()),
                ("prompts", pa.int64()),
                ("repeat", pa.int64()),
                ("seconds", pa.float64()),
                ("prompt_tokens", pa.float64()),
                ("cache_tokens", pa.int64()),
                ("query_tokens", pa.float64()),
                ("demo_words", pa.int64()),
                ("query_words", pa.float64()),
            ]
        ),
    ),
    "diagnosis": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("keys", pa.string()),
                ("sets", pa.int64()),
                ("layer", pa.int64()),
                ("components", pa.int64()),
                ("components_there", pa.int64()),
                ("class_i", pa.int64()),
                ("class_j", pa.int64()),
                ("predicted_confusion", pa.float64()),
            ]
        ),
    ),
    "reweighting": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("method", pa.string()),
                ("shots", pa.int64()),
                ("gold", pa.int64()),
                ("prediction", pa.int64()),
                ("correct", pa.bool_()),
                ("class_log_probs", pa.list_(pa.float64())),
            ]
        ),
    ),
    "deep_attention": (
        1,
        pa.schema([*_STUDY_KEYS, ("layer", pa.int64()), ("class", pa.int64()), ("attention", pa.float64())]),
    ),
    "isolation_controls": (1, pa.schema([*_STUDY_KEYS, ("control", pa.string()), *_ISOLATION])),
    "attention_controls": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("control", pa.string()),
                ("gold", pa.int64()),
                ("prediction", pa.int64()),
                ("layer", pa.int64()),
                ("class", pa.int64()),
                ("attention", pa.float64()),
            ]
        ),
    ),
    # Kernel regression: attention of the last position.
    "kernel_regression": (
        1,
        pa.schema([*_STUDY_KEYS, *_DEMONSTRATIONS, *((f"on_{part}", pa.float64()) for part in PARTS)]),
    ),
    "kernel_regression_controls": (
        1,
        pa.schema([*_STUDY_KEYS, ("control", pa.string()), ("draw", pa.int64()), *_DEMONSTRATIONS]),
    ),
    #
    # Kernel regression: texts alone, probes, hidden Markov models.
    "rewritten": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("rewriting", pa.string()),
                ("gold", pa.int64()),
                ("prediction", pa.int64()),
                ("class_log_probs", pa.list_(pa.float64())),
                ("query_tokens", pa.int64()),
                ("replaced", pa.float64()),
            ]
        ),
    ),
    "label_probes": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("feature", pa.string()),
                ("target", pa.string()),
                ("offset", pa.int64()),
                ("layer", pa.int64()),
                ("head", pa.int64()),
                ("fold", pa.int64()),
                ("fitted", pa.int64()),
                ("classes", pa.int64()),
                ("accuracy", pa.float64()),
                ("majority", pa.float64()),
                *((name, pa.list_(pa.int64())) for name in ("members", "asked", "right")),
            ]
        ),
    ),
    "prediction_similarity": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("similarity", pa.list_(pa.float64())),
                ("query_token", pa.int64()),
                ("demo_tokens", pa.list_(pa.int64())),
            ]
        ),
    ),
    "hidden_markov": (
        1,
        pa.schema(
            [
                ("seed", pa.int64()),
                ("trial", pa.int64()),
                ("task", pa.int64()),
                ("n", pa.int64()),
                ("limit", pa.bool_()),
                ("distance", pa.float64()),
                ("agrees", pa.bool_()),
                ("correct", pa.bool_()),
                ("posterior_correct", pa.bool_()),
                ("weightless", pa.bool_()),
                ("confidence", pa.float64()),
            ]
        ),
    ),
    #
    # Components.
    "components": (
        1,
        pa.schema(
            [
                *_STUDY_KEYS,
                ("template", pa.string()),
                ("method", pa.string()),
                ("labels", pa.int64()),
                ("gold", pa.int64()),
                ("prediction", pa.int64()),
            ]
        ),
    ),
    #
    # Representation change.
    "paired_prompts": (
        1,
        pa.schema(
            [
                *_PAIRED_KEYS,
                *_PAIRED,
                ("text", pa.string()),
                ("group", pa.string()),
                ("query_span", _SPAN),
                *((f"{name}_spans", _SPANS) for name in ("relevant", "irrelevant", "context")),
                ("ending_span", _SPAN),
            ]
        ),
    ),
    "representation_change": (
        1,
        pa.schema(
            [
                ("model", pa.string()),
                *_PAIRED_KEYS,
                *_PAIRED,
                ("answer", pa.string()),
                ("candidate_log_probs", pa.list_(pa.float64())),
                *((name, pa.list_(pa.float64())) for name in ("relevant", "irrelevant", "context")),
                *((f"{name}_tokens", pa.int64()) for name in ("relevant", "irrelevant", "context")),
            ]
        ),
    ),
}


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well and vanishes when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        make_readable(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_readable(path: Path) -> None:
    """Make a file that was written for its owner alone as readable as any other new file."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def describe(
    kind: str,
    module: str,
    inputs: dict[str, str],
    settings: dict[str, Any],
    seeds: list[int],
    observed: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The metadata of an artifact.

    Args:
        kind: A key of :data:`SCHEMAS`.
        module: Dotted name of the module that computed the table.
        inputs: Name of each input (relative to ``results/``) -> SHA-256 of its content.
        settings: Every setting that decides the content.
        seeds: Every seed that decides the content.
        observed: What was seen while computing that a reader of the table must know.
        more: Further facts that decide the content: model, device, dtype.
    """
    return {
        "schema": kind,
        "version": SCHEMAS[kind][0],
        "inputs": dict(sorted(inputs.items())),
        "settings": settings,
        "seeds": seeds,
        **more,
        "module": module,
        "code": provenance.code_hash(module),
        "libraries": provenance.library_versions(),
        "observed": observed or {},
    }


def write(path: Path | str, table: pd.DataFrame, metadata: dict[str, Any]) -> None:
    """Write a table of the kind its metadata names: checked against the schema, whole or not at all.

    Raises:
        ValueError: The table lacks a column, has another, or has an empty cell (a defect of the caller).
    """
    schema = SCHEMAS[metadata["schema"]][1]
    if sorted(table.columns) != sorted(schema.names):
        raise ValueError(f"columns {list(table.columns)} are not the schema's {schema.names}")
    arrow = pa.Table.from_pandas(table[schema.names], schema=schema, preserve_index=False)
    empty = _empty_columns(arrow)
    if empty:
        raise ValueError(f"empty cells in column {', '.join(empty)}")
    packed = json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode()
    arrow = arrow.replace_schema_metadata({METADATA_KEY: packed})
    with whole_file(path) as temporary:
        # Checksums of pages: a flipped byte is an error on reading, where Parquet's default reads it as data.
        pq.write_table(arrow, temporary, compression="zstd", write_page_checksum=True)


def write_tensors(path: Path | str, tensors: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Write named tensors as safetensors, with the metadata in the header, whole or not at all."""
    from safetensors.numpy import save_file

    packed = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    with whole_file(path) as temporary:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, {"icl_lens": packed})


def read_tensors(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read named tensors and their metadata.

    Raises:
        InputError: The file is absent, cut short or not one that :func:`write_tensors` wrote.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; it should hold tensors (safetensors)")
    try:
        with safe_open(path, framework="numpy") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
            metadata = json.loads(stored.metadata()["icl_lens"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file of icl-lens: `icl-lens audit --repair` clears it away, the same command "
            "then makes it anew"
        ) from error
    return tensors, metadata


def read(path: Path | str, kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table of a kind and its metadata (empty for a file made elsewhere).

    Raises:
        InputError: The file is absent, cut short, damaged, or not of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; it should be a {kind} table (Parquet)")
    try:
        arrow = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is not a whole Parquet file (cut short or damaged?): `icl-lens audit --repair` clears it away, "
            "the same command then makes it anew; copy it again if it came from elsewhere"
        ) from error
    packed = (arrow.schema.metadata or {}).get(METADATA_KEY)
    try:
        metadata = json.loads(packed) if packed else {}
    except ValueError as error:
        raise InputError(f"{path} holds damaged metadata: `icl-lens audit --repair` clears it away") from error
    version, schema = SCHEMAS[kind]
    if metadata and metadata.get("schema") != kind:
        raise InputError(f"{path} is a {metadata.get('schema')} table where a {kind} table is wanted")
    if metadata and metadata.get("version") != version:
        raise InputError(
            f"{path} follows version {metadata.get('version')} of the {kind} schema, this icl-lens reads version "
            f"{version}: `icl-lens audit --repair` clears it away"
        )
    missing = [name for name in schema.names if name not in arrow.column_names]
    if missing:
        raise InputError(f"{path} is not a {kind} table: it has no column {', '.join(missing)}")
    try:
        arrow = arrow.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{path} is not a {kind} table: {str(error).splitlines()[0]}") from error
    if arrow.num_rows == 0:
        raise InputError(f"{path} has no rows; a {kind} table needs at least one")
    empty = _empty_columns(arrow)
    if empty:
        raise InputError(f"{path} has empty cells in column {', '.join(empty)}")
    return arrow.to_pandas(), metadata


def about(path: Path | str) -> dict[str, Any]:
    """The metadata of a table, without reading its rows; empty for a file made elsewhere.

    Raises:
        InputError: The file is absent or damaged.
    """
    try:
        packed = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
        return json.loads(packed) if packed else {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is absent or damaged: `icl-lens audit --repair` clears it away") from error


def _empty_columns(table: pa.Table) -> list[str]:
    """The columns with an empty cell, or an empty value inside a list."""
    found = []
    for name in table.column_names:
        values = table[name]
        while True:
            if values.null_count:
                found.append(name)
                break
            if not pa.types.is_list(values.type):
                break
            values = pc.list_flatten(values)
    return found

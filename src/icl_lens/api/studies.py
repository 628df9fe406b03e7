"""One function per study, made from the study's declaration: its arguments, its documentation, and the call of the study.

The functions are attributes of this module and of :mod:`icl_lens`. The file ``studies.pyi``, which
:mod:`icl_lens.api.stubs` writes, describes them for type checkers and for the documentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from icl_lens import api
from icl_lens.api import documentation, tables
from icl_lens.api.model import Model
from icl_lens.api.results import Result
from icl_lens.api.tables import Prompts
from icl_lens.config import parse
from icl_lens.errors import InputError
from icl_lens.prompts.schema import PROMPTS
from icl_lens.section import Section
from icl_lens.short_repr import short_list, short_repr
from icl_lens.studies import computing, registry, writing
from icl_lens.studies.plugins import FOLDERS
from icl_lens.studies.run_synthetic import compute as compute_synthetic
from icl_lens.studies.study import Study


def __getattr__(name: str) -> Any:
    study = api.SHORT_NAMES.get(name, name)
    if study in registry.packages():
        return of_study(study)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def of_study(name: str) -> Callable[..., pd.DataFrame | Result]:
    """Return the function of a study.

    Raises:
        InputError: See :func:`icl_lens.studies.registry.study`.
    """
    return _of_study(name, FOLDERS.get(name))


@cache
def _of_study(name: str, folder: Path | None) -> Callable[..., pd.DataFrame | Result]:
    study = registry.study(name)
    arguments = signature(study)

    def function(*given: Any, **named: Any) -> pd.DataFrame | Result:
        values = _bound(study, arguments, given, named)
        settings = _settings(study, values)
        return _synthetic(study, settings) if study.reads is None else _of_prompts(study, settings, values)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "icl_lens"
    function.__doc__ = documentation.docstring(study, setting_arguments(study))
    function.__signature__ = arguments  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in arguments.parameters.values()}
    function.__annotations__["return"] = arguments.return_annotation
    return function


def setting_arguments(study: Study) -> dict[str, str]:
    """Return the argument for each setting of a study: setting -> argument.

    A setting with the name of another argument has an underscore at the end, such as ``prompts_``.
    """
    if study.settings is None:
        return {}
    taken = {"model", "prompts", *(table.option for table in study.further)} if study.reads else set()
    return {name: f"{name}_" if name in taken else name for name in study.settings.section.model_fields}


def signature(study: Study) -> inspect.Signature:
    """Return the signature of a study's function."""
    kind = inspect.Parameter
    parameters = []
    if study.reads is not None:
        of_prompts = Prompts if study.reads is PROMPTS else pd.DataFrame | str | Path
        parameters += [
            kind("model", kind.POSITIONAL_OR_KEYWORD, annotation=Model),
            kind("prompts", kind.POSITIONAL_OR_KEYWORD, annotation=of_prompts),
            *(kind(table.option, kind.KEYWORD_ONLY, annotation=Prompts) for table in study.further),
        ]
    for name, argument in setting_arguments(study).items():
        field = study.settings.section.model_fields[name]
        default = field.get_default(call_default_factory=True)
        nested = isinstance(default, Section)
        annotation = Mapping[str, Any] | None if nested else field.annotation
        parameters.append(kind(argument, kind.KEYWORD_ONLY, default=None if nested else default, annotation=annotation))
    return inspect.Signature(parameters, return_annotation=Result if study.tensors else pd.DataFrame)


def _bound(study: Study, arguments: inspect.Signature, given: tuple, named: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the arguments that the caller gave, by name."""
    unknown = next((name for name in named if name not in arguments.parameters), None)
    if unknown is not None:
        close = get_close_matches(unknown, arguments.parameters, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"its arguments are {short_list(arguments.parameters)}"
        raise InputError(f"{study.name}: unknown argument {unknown!r}; {hint}")
    try:
        return dict(arguments.bind(*given, **named).arguments)
    except TypeError as error:
        raise InputError(f"{study.name}: {error}; see help(icl_lens.{study.name})") from None


def _settings(study: Study, values: Mapping[str, Any]) -> Section | None:
    """Return the settings that the arguments describe."""
    if study.settings is None:
        return None
    names = {argument: name for name, argument in setting_arguments(study).items()}
    given = {names[argument]: _plain(value) for argument, value in values.items() if argument in names}
    nested = [name for name, value in given.items() if value is None and isinstance(_default(study, name), Section)]
    given = {name: value for name, value in given.items() if name not in nested}
    try:
        return study.settings.section(**given)
    except ValidationError as error:
        arguments = setting_arguments(study)
        raise InputError(parse.sentences(error, study.name, study.settings.section, arguments)) from None


def _default(study: Study, name: str) -> Any:
    return study.settings.section.model_fields[name].get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    """Convert tuples, ranges, arrays and numbers of numpy, which settings do not accept, to lists and numbers of Python."""
    if isinstance(value, np.ndarray | np.generic | pd.Series):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _synthetic(study: Study, settings: Section | None) -> pd.DataFrame:
    rows, _ = compute_synthetic(study, settings)
    return writing.as_read(study, rows, None)


def _of_prompts(study: Study, settings: Section | None, values: Mapping[str, Any]) -> pd.DataFrame | Result:
    model = values["model"]
    if not isinstance(model, Model):
        raise InputError(
            f"{study.name}: model must be an icl_lens.Model, which icl_lens.load and icl_lens.wrap return, got "
            f"{short_repr(type(model).__name__)}"
        )
    schemas = {"prompts": study.reads, **{each.option: PROMPTS for each in study.further}}
    given = {name: tables.read(name, values[name], schema) for name, schema in schemas.items()}
    unknown = _without_gold(study, given)
    table, *further = map(_with_placeholders, given.values())
    with model.evaluation() as language_model:
        computed = computing.compute(
            study,
            language_model,
            table,
            settings,
            dict(zip([each.option for each in study.further], further, strict=True)),
            options=model.options,
        )
    rows = writing.as_read(study, computed.rows, computed.prompts)
    if unknown:
        rows = _masked(rows, study.gold_columns, unknown)
    return rows if computed.tensors is None else Result(rows, dict(computed.tensors))


def _without_gold(study: Study, given: Mapping[str, pd.DataFrame]) -> set[int]:
    """Return the prompt_id of each prompt in the table ``prompts`` whose gold label is unknown.

    Raises:
        InputError: A prompt of a table has no gold label, and the study needs the gold labels.
    """
    unknown = {name: table.loc[table["gold"].isna(), "prompt_id"].tolist() for name, table in given.items() if "gold" in table}
    for name, prompt_ids in unknown.items():
        if prompt_ids and study.needs_gold:
            raise InputError(
                f"{name}: prompt {prompt_ids[0]} has no gold label, but {study.name} needs one; set gold to the correct label, "
                "or use icl_lens.with_predicted_gold(model, prompts) to study the model's own predictions"
            )
    return set(unknown.get("prompts", ()))


def _with_placeholders(table: pd.DataFrame) -> pd.DataFrame:
    """Return a prompts table in which unknown gold labels are class 0. They affect only the columns that are masked later."""
    return table.assign(gold=table["gold"].fillna(0).astype("int64")) if "gold" in table else table


def _masked(rows: pd.DataFrame, columns: tuple[str, ...], prompt_ids: set[int]) -> pd.DataFrame:
    """Return rows in which some columns of some prompts are missing (NA)."""
    hidden = rows["prompt_id"].isin(prompt_ids)
    nullable = {"bool": "boolean", "int64": "Int64", "float64": "Float64"}
    return rows.assign(**{name: rows[name].astype(nullable[str(rows[name].dtype)]).mask(hidden) for name in columns})

"""Registry of all studies, figures, groups and kinds of tables, discovered by folder.

No study imports this module, so the code hash of a study does not include other studies.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from icl_lens.artifacts.code import module_file
from icl_lens.artifacts.schema import Schema
from icl_lens.corpora.schema import CORPORA
from icl_lens.errors import InputError
from icl_lens.organism.schema import EVALUATION, TRAINING
from icl_lens.prompts.schema import PROMPTS
from icl_lens.studies import folders, plugins
from icl_lens.studies.group import Group
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

# Names of the workflow's own rules. A plugin's target must not use them.
_TARGETS = frozenset(
    "all default studies figure table report corpora prompts training evaluation card organism reader_training reader_organism "
    "representation_prompts fetch_model fetch_dataset fetch_gguf convert_gguf".split()
)

_FOLDER = Path(__file__).resolve().parent
_PACKAGE = __name__.rpartition(".")[0]


def packages() -> dict[str, str]:
    """Return name -> package of each study, with plugins last.

    Raises:
        InputError: A plugin has the name of a study or group of icl-lens, or of a target of the workflow.
    """
    builtin = folders.packages()
    for name, folder in plugins.FOLDERS.items():
        if name in builtin or name in _builtin_groups():
            owner = "study" if name in builtin else "group of figures"
            raise InputError(f"plugins: {folder}: the name {name!r} is taken by a {owner} of icl-lens; rename the folder")
        if name in _TARGETS:
            raise InputError(f"plugins: {folder}: the name {name!r} is taken by a target of the workflow; rename the folder")
    return {**builtin, **{name: f"{plugins.__name__}.{name}" for name in plugins.FOLDERS}}


def _registered() -> tuple[tuple[str, Path], ...]:
    """Return the key of the cached functions: the plugins registered in this process."""
    return tuple(plugins.FOLDERS.items())


def is_plugin(name: str) -> bool:
    """Return whether a study is a plugin, that is, outside the package."""
    return name in plugins.FOLDERS


def rule(study: Study) -> str:
    """Return the name of a study's rule in the workflow.

    It is the study's name, with the suffix ``_study`` if a group of figures has the same name.
    """
    return f"{study.name}_study" if study.name in groups() else study.name


def shard_rule(study: Study) -> str:
    """Return the name of the rule that computes a shard of a study's table."""
    return f"{rule(study)}_shard"


def study(name: str) -> Study:
    """Return the study with the given name, without loading other studies.

    Raises:
        InputError: No such study exists, or its ``study.py`` violates the contract.
    """
    if name not in packages():
        raise InputError(f"unknown study {name}; known studies: {', '.join(packages())}")
    try:
        module = import_module(f"{packages()[name]}.study")
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may also call sys.exit
        if not is_plugin(name):
            raise
        raise InputError(
            f"study {name}: {_error_location(error, plugins.FOLDERS[name])}: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, "STUDY", None)
    if not isinstance(found, Study):
        raise InputError(f"study {name}: {module.__file__} must define STUDY = Study(...)")
    if found.package != packages()[name]:
        raise InputError(f"study {name}: package must be __package__, got {found.package!r}")
    if is_plugin(name) and module_file(found.module) is None:
        raise InputError(f"study {name}: {plugins.FOLDERS[name]} contains no compute.py")
    return found


def _error_location(error: BaseException, folder: Path) -> str:
    """Return where in a folder's code an error was raised: the file, and the line of the last call in that folder."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    file, line = (frames[-1].filename, frames[-1].lineno) if frames else (folder / "study.py", None)
    return f"{file}, line {line}" if line else str(file)


def studies() -> dict[str, Study]:
    """Return all studies by name: first by paper, in the order of the groups, then the plugins."""
    return _studies(_registered())


@cache
def _studies(registered: tuple[tuple[str, Path], ...]) -> dict[str, Study]:
    found = {name: study(name) for name in packages()}
    order = list(groups())
    return dict(sorted(found.items(), key=lambda pair: (order.index(pair[1].group), is_plugin(pair[0]))))


@cache
def _builtin_groups() -> dict[str, Group]:
    found = [import_module(f"{_PACKAGE}.{path.parent.name}.group").GROUP for path in sorted(_FOLDER.glob("*/group.py"))]
    return {group.name: group for group in sorted(found, key=lambda group: group.order)}


def groups() -> dict[str, Group]:
    """Return all groups of figures by name, in order. Each plugin is its own group."""
    return _groups(_registered())


@cache
def _groups(registered: tuple[tuple[str, Path], ...]) -> dict[str, Group]:
    builtin = _builtin_groups()
    last_order = max(group.order for group in builtin.values())
    return {**builtin, **{name: Group(f"{plugins.__name__}.{name}", False, last_order + 1) for name in plugins.FOLDERS}}


def papers() -> list[str]:
    """Return the names of the groups that replicate papers."""
    return [name for name, group in groups().items() if group.paper]


def items() -> dict[str, Item]:
    """Return all figures and tables by name, sorted by group and then by number.

    Raises:
        InputError: Two items have the same name, an item reads a study that does not exist, or a plugin gives an item an
            invalid name or prompt set.
    """
    return _items(_registered())


@cache
def _items(registered: tuple[tuple[str, Path], ...]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    all_items = [*(item for group in groups().values() for item in group.items)]
    all_items += [item for each in studies().values() for item in each.items]
    order = list(groups())
    for item in sorted(all_items, key=lambda item: (order.index(item.group), _natural(item.name))):
        source = f"plugins: {item.group}" if is_plugin(item.group) else item.group
        if is_plugin(item.group):
            _check_names(item)
        if item.name in found:
            raise InputError(f"{source}: items: duplicate name {item.name}; names of figures and tables must be unique")
        for name in item.studies:
            if name not in packages():
                raise InputError(f"{source}: items: {item.name} reads the unknown study {name}")
        found[item.name] = item
    return found


def _check_names(item: Item) -> None:
    """Check the name and the prompt set of a plugin's figure or table."""
    location = f"plugins: {item.group}: items"
    if not re.fullmatch(r"(figure|table)_[a-z0-9_]+", item.name):
        raise InputError(
            f"{location}: {item.name!r} is not a valid name of a figure or table; use figure_ or table_ followed by lower-case "
            "letters, digits and underscores"
        )
    if item.set and not item.own_tasks:
        from icl_lens.prompts.protocol import Protocol  # imports pandas, which `icl-lens --help` does not need

        try:
            Protocol.of(item.set)
        except InputError as error:
            raise InputError(f"{location}: {item.name}: set: {error}") from error


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that orders ``figure_2`` before ``figure_10``."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in name.split("_"))


def settings() -> dict[str, Keys]:
    """Return the config keys under ``studies``, by name. Studies that share settings have the same keys."""
    return _settings(_registered())


@cache
def _settings(registered: tuple[tuple[str, Path], ...]) -> dict[str, Keys]:
    found: dict[str, Keys] = {}
    for each in studies().values():
        if each.settings is not None:
            other = found.setdefault(each.settings.name, each.settings)
            if other != each.settings:
                raise InputError(
                    f"study {each.name}: settings: the key {each.settings.name} is used by another study; choose another name"
                )
    return found


def schemas() -> list[Schema]:
    """Return the schema of each kind of table that a results folder can contain."""
    found = [CORPORA, PROMPTS, TRAINING, EVALUATION]
    for each in studies().values():
        found += [each.schema, *([each.reads] if each.reads else [])]
    return list({schema.kind: schema for schema in found}.values())


def add_plugins(folders: Iterable[Path | str]) -> None:
    """Register the studies in some folders, see :func:`icl_lens.studies.plugins.add`, and check that they meet the contract.

    Raises:
        InputError: See :func:`icl_lens.studies.plugins.add`, :func:`packages`, :func:`study`, :func:`items`, :func:`settings`.
    """
    folders = list(folders)
    if not folders:
        return
    plugins.add(folders)
    items()
    settings()

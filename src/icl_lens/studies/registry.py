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
from icl_lens.studies import plugins
from icl_lens.studies.group import Group
from icl_lens.studies.item import Item
from icl_lens.studies.study import Keys, Study

# Names of the workflow's own rules. A plugin's target must not use them.
_TARGETS = frozenset(
    "all default figure table report corpora prompts training evaluation card organism reader_training reader_organism "
    "representation_prompts fetch_model fetch_dataset fetch_gguf convert_gguf".split()
)

_FOLDER = Path(__file__).resolve().parent
_PACKAGE = __name__.rpartition(".")[0]


@cache
def _own_packages() -> dict[str, str]:
    """Return name -> package of each study in this package, determined without imports."""
    folders = sorted(path.parent for path in _FOLDER.glob("*/*/study.py") if path.parent.parent.name != "plugins")
    return {folder.name: f"{_PACKAGE}.{folder.parent.name}.{folder.name}" for folder in folders}


def packages() -> dict[str, str]:
    """Return name -> package of each study, with plugins last.

    Raises:
        InputError: A plugin has the name of a study or group of icl-lens, or of a target of the workflow.
    """
    own = _own_packages()
    for name, folder in plugins.FOLDERS.items():
        if name in own or name in _own_groups():
            taken = "study" if name in own else "group of figures"
            raise InputError(f"plugins: {folder}: icl-lens has a {taken} named {name} itself; rename the folder")
        if name in _TARGETS:
            raise InputError(f"plugins: {folder}: {name!r} is a target of the workflow; rename the folder")
    return {**own, **{name: f"{plugins.__name__}.{name}" for name in plugins.FOLDERS}}


def _known() -> tuple[tuple[str, Path], ...]:
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


def study(name: str) -> Study:
    """Return the study with the given name, without loading other studies.

    Raises:
        InputError: No such study exists, or its ``study.py`` violates the contract.
    """
    if name not in packages():
        raise InputError(f"there is no study {name}; known: {', '.join(packages())}")
    try:
        module = import_module(f"{packages()[name]}.study")
    except InputError:
        raise
    except Exception as error:
        if not is_plugin(name):
            raise
        raise InputError(f"study {name}: {_place(error, plugins.FOLDERS[name])}: {type(error).__name__}: {error}") from error
    found = getattr(module, "STUDY", None)
    if not isinstance(found, Study):
        raise InputError(f"study {name}: {module.__file__} defines no STUDY = Study(...)")
    if found.package != packages()[name]:
        raise InputError(f"study {name}: package is {found.package!r}; it must be __package__")
    if is_plugin(name) and module_file(found.module) is None:
        raise InputError(f"study {name}: {plugins.FOLDERS[name]} holds no compute.py")
    return found


def _place(error: Exception, folder: Path) -> str:
    """Return where in a folder's code an error was raised: the file, and the line of the last call in that folder."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    file, line = (lines[-1].filename, lines[-1].lineno) if lines else (folder / "study.py", None)
    return f"{file}, line {line}" if line else str(file)


def studies() -> dict[str, Study]:
    """Return all studies by name: first by paper, in the order of the groups, then the plugins."""
    return _studies(_known())


@cache
def _studies(known: tuple[tuple[str, Path], ...]) -> dict[str, Study]:
    found = {name: study(name) for name in packages()}
    order = list(groups())
    return dict(sorted(found.items(), key=lambda pair: (order.index(pair[1].group), is_plugin(pair[0]))))


@cache
def _own_groups() -> dict[str, Group]:
    found = [import_module(f"{_PACKAGE}.{path.parent.name}.group").GROUP for path in sorted(_FOLDER.glob("*/group.py"))]
    return {group.name: group for group in sorted(found, key=lambda group: group.order)}


def groups() -> dict[str, Group]:
    """Return all groups of figures by name, in order. Each plugin is its own group."""
    return _groups(_known())


@cache
def _groups(known: tuple[tuple[str, Path], ...]) -> dict[str, Group]:
    own = _own_groups()
    last = max(group.order for group in own.values())
    return {**own, **{name: Group(f"{plugins.__name__}.{name}", False, last + 1) for name in plugins.FOLDERS}}


def papers() -> list[str]:
    """Return the names of the groups that replicate papers."""
    return [name for name, group in groups().items() if group.paper]


def items() -> dict[str, Item]:
    """Return all figures and tables by name, sorted by group and then by number.

    Raises:
        InputError: Two items have the same name, an item reads a study that does not exist, or a plugin gives an item an
            invalid name or prompt set.
    """
    return _items(_known())


@cache
def _items(known: tuple[tuple[str, Path], ...]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    every = [*(item for group in groups().values() for item in group.items)]
    every += [item for each in studies().values() for item in each.items]
    order = list(groups())
    for item in sorted(every, key=lambda item: (order.index(item.group), _natural(item.name))):
        source = f"plugins: {item.group}" if is_plugin(item.group) else item.group
        if is_plugin(item.group):
            _check_names(item)
        if item.name in found:
            raise InputError(f"{source}: items: icl-lens has a figure or table named {item.name} already; rename it")
        for name in item.studies:
            if name not in packages():
                raise InputError(f"{source}: items: {item.name} reads a study {name}, which does not exist")
        found[item.name] = item
    return found


def _check_names(item: Item) -> None:
    """Check the name and the prompt set of a plugin's figure or table."""
    place = f"plugins: {item.group}: items"
    if not re.fullmatch(r"(figure|table)_[a-z0-9_]+", item.name):
        raise InputError(
            f"{place}: {item.name!r} cannot be a figure's or table's name; it begins with figure_ or table_ and has lower-case "
            "letters, digits and underscores"
        )
    if item.set and not item.own_tasks:
        from icl_lens.prompts.protocol import Protocol  # imports pandas, which `icl-lens --help` does not need

        try:
            Protocol.of(item.set)
        except InputError as error:
            raise InputError(f"{place}: {item.name}: set: {error}") from error


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that orders ``figure_2`` before ``figure_10``."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in name.split("_"))


def settings() -> dict[str, Keys]:
    """Return the config keys under ``studies``, by name. Studies that share settings have the same keys."""
    return _settings(_known())


@cache
def _settings(known: tuple[tuple[str, Path], ...]) -> dict[str, Keys]:
    found: dict[str, Keys] = {}
    for each in studies().values():
        if each.settings is not None:
            other = found.setdefault(each.settings.name, each.settings)
            if other != each.settings:
                raise InputError(
                    f"study {each.name}: settings: the keys {each.settings.name} belong to another study; choose another name"
                )
    return found


def schemas() -> list[Schema]:
    """Return the schema of each kind of table that a results folder can contain."""
    every = [CORPORA, PROMPTS, TRAINING, EVALUATION]
    for each in studies().values():
        every += [each.schema, *([each.reads] if each.reads else [])]
    return list({schema.kind: schema for schema in every}.values())


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

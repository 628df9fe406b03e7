"""Semantic hashes of code: an edit that can change a result changes the hash, an edit of a comment does not.

The hash covers the syntax trees of a module and of all project modules that it needs, directly or indirectly. It also covers
the data files in the folders of these modules that their code names. The parts of a tree that change no result are removed:

- comments, docstrings, blank lines, ``pass``, and the annotations of functions and variables;
- the messages of errors and of ``assert``, calls of ``logger``, and the descriptions of settings;
- the declarations of a study for the command line, the plan and the report (:data:`DECLARATIONS`), and the private functions
  of its ``study.py`` that only these declarations use;
- imports of names that only these parts use. The hash does not follow these imports, except those for annotations: a function
  that takes an object of a class calls the methods of the class.

The hash does not follow the modules of the contract (:data:`CONTRACT`), because they describe studies and compute nothing.
Therefore a new study does not change the hash of another study, and a new message does not change any hash.

Two parts stay in the tree although they may not change a result. The first is annotations in a class (pydantic and dataclasses
read them) or of a function with a decorator that may read them (see :data:`DECORATORS`). The second is unused imports (a module
may import for a side effect, or for other modules to import the name).

The hash misses a module if the code builds its name at run time. It misses a data file if its full name is not a string in the
code.

This module serialises the trees itself, because the output of :func:`ast.dump` differs between versions of Python.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from icl_lens.errors import InputError

SCHEME = "syntax-1:"
"""Prefix of each code hash, which identifies the rules of the hash. If the rules change, increase the number."""

PACKAGE = Path(__file__).resolve().parents[1]

ROOTS: dict[str, Path] = {PACKAGE.name: PACKAGE}
"""Dotted name -> folder of each tree of project modules: the package, and studies outside the package."""

SHARED_DECLARATIONS = ("KEYS",)
"""Names of declarations that several studies share, in a module next to these studies."""

DECLARATIONS = ("STUDY", "GROUP", *SHARED_DECLARATIONS)
"""Names of the declarations in a study.py or group.py. They describe the study or group and compute nothing."""

CONTRACT = frozenset(f"{PACKAGE.name}.studies.{name}" for name in ("study", "item", "cost", "group"))
"""Modules with the classes that describe a study. How they process its declarations changes no result."""

USER_ERRORS = frozenset("InputError NotImplementedError RuntimeError ValueError".split())
"""Errors with a message for the user. Code may use the text of any other error, such as the key in a KeyError."""

DECORATORS = frozenset(
    "abstractmethod cache cached_check cached_property classmethod contextmanager enable_grad exact_products inference_mode "
    "lru_cache no_grad override property setter staticmethod wraps".split()
)
"""Decorators that do not read the annotations of a function. Any other decorator may read them (pydantic's validators do)."""

_LOGGED = frozenset("critical debug error exception info log warning".split())


def code_hash(*modules: str) -> str:
    """Return the hash of modules, of all project modules that they need, and of the data files that they name.

    Args:
        modules: Dotted names such as ``icl_lens.studies.anchors.saliency.compute``.

    Raises:
        ValueError: A module does not exist.
        InputError: A module is not valid Python.
    """
    for name in modules:
        if module_file(name) is None:
            raise ValueError(f"unknown module {name}")
    return _hash(_closure(modules))


def module_hash(name: str) -> str:
    """Return the hash of one module, without the modules that it needs.

    Raises:
        ValueError: The module does not exist.
    """
    path = module_file(name)
    if path is None:
        raise ValueError(f"unknown module {name}")
    return _hash({name: _source(path, name)})


def notebook_hash(notebook: Path | str) -> str:
    """Return the hash of the project modules that the code cells of a notebook import.

    The notebook file is not part of this hash: it is recorded as an input of its figure.

    Raises:
        InputError: A cell or an imported module is not valid Python.
    """
    return _hash(_closure(_imports_of_notebook(notebook)))


def notebook_modules(notebook: Path | str) -> list[str]:
    """Return the sorted dotted names of all project modules that the code cells of a notebook need."""
    return sorted(_closure(_imports_of_notebook(notebook)))


def modules_of(*modules: str) -> list[str]:
    """Return the sorted dotted names of modules and of all project modules that they need."""
    return sorted(_closure(modules))


def module_file(name: str) -> Path | None:
    """Return the source file of a project module, or None if there is no such module."""
    for root in sorted(ROOTS, key=len, reverse=True):
        if name == root or name.startswith(f"{root}."):
            base = os.path.join(ROOTS[root], *name.removeprefix(root).split("."))
            files = [os.path.join(base, "__init__.py"), *([f"{base}.py"] if name != root else [])]
            return next((Path(file) for file in files if os.path.isfile(file)), None)
    return None


def read_all() -> None:
    """Read each module of the package, so that forks of this process do not have to read it again."""
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE).with_suffix("")
        _source(path, ".".join([PACKAGE.name, *relative.parts]).removesuffix(".__init__"))


def _imports_of_notebook(notebook: Path | str) -> tuple[str, ...]:
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # Jupyter commands import no project module.
    python = "\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in code.split("\n"))
    return _parsed(python, Path(notebook)).imports


@dataclass(frozen=True)
class _Source:
    """A parsed source file.

    Attributes:
        folder: The folder of the file.
        digest: Digest of the pruned syntax tree.
        imports: Dotted project names that the file needs: modules, and names in modules.
        bound: Pairs of a name that an import binds to a project object, and the dotted name of this object. Other modules may
            import the name from this file.
        stars: Project modules that the file imports with ``*``.
        texts: Strings in the file that can be file names.
    """

    folder: Path
    digest: str
    imports: tuple[str, ...]
    bound: tuple[tuple[str, str], ...]
    stars: tuple[str, ...]
    texts: frozenset[str]


def _hash(closure: dict[str, _Source]) -> str:
    digest = hashlib.sha256()
    for name, source in sorted(closure.items()):
        digest.update(f"{name}\0{source.digest}\n".encode())
        for data in _data_files(source):
            content = hashlib.sha256((source.folder / data).read_bytes()).hexdigest()
            digest.update(f"{name}\0{data!a}\0{content}\n".encode())
    return SCHEME + digest.hexdigest()


def _closure(names: Iterable[str]) -> dict[str, _Source]:
    """Return dotted name -> source of the modules that the names refer to, and of all project modules that these need.

    A name is the name of a module or of an object in a module.
    """
    found: dict[str, _Source] = {}
    files = cache(module_file)
    seen: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        # `from icl_lens.tasks.task import TASKS` names an attribute. Python runs the packages of a module before the module.
        module, attributes = name, []
        while module and files(module) is None:
            module, _, attribute = module.rpartition(".")
            attributes.insert(0, attribute)
        if not module or module in CONTRACT:
            continue
        if module not in found:
            found[module] = _source(files(module), module)
            pending += [module.rpartition(".")[0], *found[module].imports]
        if attributes and files(module).name in ("study.py", "group.py") and _is_private(attributes[0]):
            raise InputError(
                f"{name}: private names of a study.py or group.py are not part of the code hash; remove the leading underscore "
                "of a name that other modules import"
            )
        if attributes:  # the module may import the name from another module
            source = found[module]
            bound = [dotted for alias, dotted in source.bound if alias == attributes[0]] or [
                f"{m}.{attributes[0]}" for m in source.stars
            ]
            pending += [".".join([dotted, *attributes[1:]]) for dotted in bound]
    found.pop(__name__, None)  # this module computes no result, and SCHEME identifies its rules
    return found


def _source(path: Path, module: str) -> _Source:
    try:
        code = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    return _parsed(code, path, module)


@lru_cache(maxsize=4096)
def _parsed(code: str, path: Path, module: str = "") -> _Source:
    """Parse a source file, or the code of a notebook, which has no module name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        location = f", line {error.lineno}" if isinstance(error, SyntaxError) and path.suffix == ".py" else ""
        raise InputError(f"{path}{location} is not valid Python: {getattr(error, 'msg', error)}") from error
    is_package = path.name == "__init__.py"
    used_before, annotation_names = _used_names(tree), _annotation_names(tree)
    tree = _Pruner(tree).visit(tree)
    _remove_declarations(tree, DECLARATIONS if path.name in ("study.py", "group.py") else SHARED_DECLARATIONS)
    # Only annotations and messages used these names. A package's __init__ imports names for other modules.
    unneeded = set() if is_package else used_before - _used_names(tree)
    imports = _Imports(module if is_package else module.rpartition(".")[0], unneeded, annotation_names)
    tree = imports.visit(tree)
    return _Source(
        path.parent,
        hashlib.sha256("".join(_serialized(tree)).encode()).hexdigest(),
        tuple(dict.fromkeys([*imports.found, *_attributes(tree, imports.bound), *_named_modules(tree)])),
        tuple(imports.bound),
        tuple(imports.stars),
        frozenset(text for text in _strings(tree) if 0 < len(text) < 256 and text.isprintable()),
    )


def _used_names(tree: ast.AST) -> set[str]:
    """Return the names that code uses, or exports in ``__all__``."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if "__all__" in names:
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                names.update(_strings(node))
    return names


def _annotation_names(tree: ast.AST) -> set[str]:
    """Return the names in the annotations of functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        annotation = node.annotation if isinstance(node, ast.arg) else getattr(node, "returns", None)
        if isinstance(annotation, ast.expr):
            found |= {each.id for each in ast.walk(annotation) if isinstance(each, ast.Name)}
    return found


def _strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _data_files(source: _Source) -> list[str]:
    """Return the strings of a module that name a data file in its folder or in a subfolder."""
    siblings = {entry.name for entry in os.scandir(source.folder) if entry.is_file()}
    relative = {text for text in source.texts if "/" in text and ".." not in text and text[0] != "/"}
    found = (source.texts & siblings) | {text for text in relative if (source.folder / text).is_file()}
    return sorted(text for text in found if not text.endswith((".py", ".pyc")))


def _in_package(dotted: str) -> bool:
    return dotted.split(".")[0] == PACKAGE.name


def _attributes(tree: ast.AST, bound: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the dotted names of the objects that code uses as attributes of project modules, or after ``import *``."""
    by_name: dict[str, list[str]] = {}
    for name, dotted in bound:
        by_name.setdefault(name, []).append(dotted)
    for base in by_name.get("*", ()):
        yield from (f"{base}.{name}" for name in sorted(_used_names(tree)))
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            yield from (".".join([dotted, *parts]) for dotted in by_name.get(node.id, ()))


def _named_modules(tree: ast.AST) -> Iterator[str]:
    """Yield the strings that can be dotted project names, because code may import a module by such a string."""
    yield from (text for text in sorted(_strings(tree)) if _in_package(text) and all(map(str.isidentifier, text.split("."))))


class _Imports(ast.NodeTransformer):
    """Transformer that finds the project imports of a tree and removes unneeded imports.

    Args:
        package: The package of the module, for relative imports.
        unneeded: Names with imports that are removed from the tree and not followed.
        annotation_names: Names with imports that are followed even if they are unneeded.
    """

    def __init__(self, package: str, unneeded: set[str], annotation_names: set[str]) -> None:
        self.package, self.unneeded, self.annotation_names = package, unneeded, annotation_names
        self.found: list[str] = []
        self.bound: list[tuple[str, str]] = []
        self.stars: list[str] = []

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        for alias in node.names:
            first = alias.name.split(".")[0]
            self._add(alias.asname or first, alias.name, alias.name if alias.asname else first)
        node.names = [alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) not in self.unneeded]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            anchor = parts[: len(parts) - node.level + 1]
            base = ".".join([*anchor, base] if base else anchor)
        for alias in node.names:
            if alias.name == "*":
                self._add("*", base, base)
                self.stars += [base] if _in_package(base) else []
            else:
                self._add(alias.asname or alias.name, f"{base}.{alias.name}", f"{base}.{alias.name}")
        node.names = [alias for alias in node.names if (alias.asname or alias.name) not in self.unneeded]
        return node if node.names else None

    def _add(self, name: str, imported: str, target: str) -> None:
        if _in_package(imported):
            self.bound.append((name, target))
            if name not in self.unneeded or name in self.annotation_names:
                self.found.append(imported)


class _Pruner(ast.NodeTransformer):
    """Transformer that removes the parts of a tree that change no result."""

    def __init__(self, tree: ast.AST) -> None:
        self.in_class = False
        self.fields = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "pydantic"
            for alias in node.names
            if alias.name == "Field"
        }

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                setattr(node, name, [each for each in body if not _has_no_effect(each)])
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._visit_scope(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._without_annotations(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._without_annotations(node)

    def _visit_scope(self, node: ast.AST, in_class: bool) -> ast.AST:
        previous, self.in_class = self.in_class, in_class
        try:
            return self.generic_visit(node)
        finally:
            self.in_class = previous

    def _without_annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if all(_last_name(decorator) in DECORATORS for decorator in node.decorator_list):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            for argument in arguments:
                if argument is not None:
                    argument.annotation = None
            node.returns = None
        return self._visit_scope(node, in_class=False)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if self.in_class or node.value is None:
            return self.generic_visit(node)
        return self.generic_visit(ast.Assign(targets=[node.target], value=node.value))

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if _last_name(node.test) == "TYPE_CHECKING":  # it is always false at run time
            kept = [self.visit(each) for each in node.orelse]
            return [each for each in kept if not _has_no_effect(each)]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call) and _last_name(node.exc) in USER_ERRORS:
            node.exc.args = [ast.Constant(value="") if _is_text(each) else each for each in node.exc.args]
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if node.msg is not None and _is_text(node.msg):
            node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in self.fields:
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        return self.generic_visit(node)


def _remove_declarations(tree: ast.Module, names: Collection[str]) -> None:
    """Remove the declarations of a study or group from a pruned tree, with the private helpers that nothing else uses."""
    # A module may use the name KEYS for something else.
    declared = [
        each
        for each in tree.body
        if set(_defined_names(each)) & set(names)
        and (not set(_defined_names(each)) & set(SHARED_DECLARATIONS) or _last_name(getattr(each, "value", None)) == "Keys")
    ]
    if not declared:
        return
    tree.body = [each for each in tree.body if each not in declared]
    while True:
        private = [each for each in tree.body if all(map(_is_private, _defined_names(each) or [""]))]
        used = [_used_names(each) - set(_defined_names(each)) for each in tree.body]
        unused = [each for each in private if not any(set(_defined_names(each)) & names for names in used)]
        if not unused:
            return
        tree.body = [each for each in tree.body if each not in unused]


def _defined_names(node: ast.stmt) -> list[str]:
    """Return the name of a function or class, or the names that an assignment binds; no names for any other statement."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return names if len(names) == len(targets) else []


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _last_name(node: ast.expr) -> str:
    """Return ``cache`` for ``cache``, ``functools.cache`` and ``functools.cache()``; empty for any other expression."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


# Functions without side effects.
_PURE_FUNCTIONS = frozenset("format join len list max min round set sorted str sum".split())


def _has_no_effect(node: ast.AST) -> bool:
    """Return whether a statement is a docstring (module, function, class or attribute), does nothing, or only logs."""
    if isinstance(node, ast.Pass):
        return True
    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return names == ["logger"] and _last_name(node.value) == "getLogger"
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Constant):
        return True
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _LOGGED):
        return False
    has_effect = any(
        isinstance(each, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom)
        or (isinstance(each, ast.Call) and each is not value and _last_name(each) not in _PURE_FUNCTIONS)
        for each in ast.walk(value)
    )
    return isinstance(value.func.value, ast.Name) and value.func.value.id == "logger" and not has_effect


def _is_text(node: ast.expr) -> bool:
    """Return whether an expression is a string literal or an f-string."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _serialized(node: object) -> Iterator[str]:
    """Yield a tree as text that is the same in each version of Python.

    Empty fields, and fields that only some versions have, are omitted.
    """
    if isinstance(node, ast.JoinedStr):
        # Python 3.12.0 and 3.12.1 insert empty strings between the parts.
        node = ast.JoinedStr(values=[each for each in node.values if not (_is_text(each) and getattr(each, "value", 0) == "")])
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name in sorted(node._fields):
            value = getattr(node, name, None)
            if name in ("ctx", "kind", "type_comment") or value is None or value == []:
                if isinstance(node, ast.Constant) and name == "value":
                    yield " value=None"
                continue
            yield f" {name}="
            yield from _serialized(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for each in node:
            yield from _serialized(each)
            yield ","
        yield "]"
    else:
        # The characters that repr() escapes differ between versions of Python.
        yield f"{type(node).__name__}:{node!a}"

"""The hash of what code means: an edit that can change a result changes the hash, an edit of a comment does not.

The hash is over the syntax trees of a module and of every module of ours that it needs, directly or not, and over the data
files beside them that their code names. What changes no result is left out of a tree:

- comments, docstrings, blank lines, ``pass``, the annotations of functions and variables;
- the sentences of errors and of ``assert``, calls of ``logger``, the descriptions of settings;
- what a study says of itself for the command line, the plan and the report (:data:`DECLARATIONS`), and the private functions of
  its ``study.py`` that only this uses;
- imports of names that only these parts use. They are not followed, either, except those of annotations: a function that is
  given an object of a class calls the methods of the class.

The modules of the contract (:data:`CONTRACT`) are not followed: they describe studies and compute nothing. So a new study
changes no other study's hash, and a new sentence changes no hash. Two things are kept although they may change nothing:
annotations in a class (pydantic and dataclasses read them) or of a function with a decorator that may read them
(:data:`DECORATORS`), and imports that nothing uses (they can be there for their effect, or for other modules to import).

The hash misses a module that is imported by a name which the code puts together at run time, and a data file whose whole name
is not a string in the code.

Trees are written out by this module and not by :func:`ast.dump`, whose form differs between versions of Python.
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
"""The beginning of every code hash: the rules by which it was made. Other rules need another number."""

PACKAGE = Path(__file__).resolve().parents[1]

ROOTS: dict[str, Path] = {PACKAGE.name: PACKAGE}
"""Dotted name -> folder of each tree of modules that is ours: the package, and studies outside of it."""

SHARED_DECLARATIONS = ("KEYS",)
"""Names that a module beside several studies gives to what they say of themselves."""

DECLARATIONS = ("STUDY", "GROUP", *SHARED_DECLARATIONS)
"""Names that a study.py or group.py gives to what it says of itself; that is not code which computes."""

CONTRACT = frozenset(f"{PACKAGE.name}.studies.{name}" for name in ("study", "item", "cost", "group"))
"""The modules whose classes describe a study: what they do to what it says of itself changes no result."""

SENTENCES = frozenset("InputError NotImplementedError RuntimeError ValueError".split())
"""Errors whose text is for people. Code may use the text of any other error, such as the key in a KeyError."""

DECORATORS = frozenset(
    "abstractmethod cache cached_check cached_property classmethod contextmanager enable_grad exact_products inference_mode "
    "lru_cache no_grad override property setter staticmethod wraps".split()
)
"""Decorators that do not read the annotations of a function. Any other decorator may, as pydantic's validators do."""

_LOGGED = frozenset("critical debug error exception info log warning".split())


def code_hash(*modules: str) -> str:
    """The hash of some modules and of every module of ours that they need, and of the data files beside them that they name.

    Args:
        modules: Dotted names such as ``icl_lens.studies.anchors.saliency.compute``.

    Raises:
        ValueError: There is no such module.
        InputError: One of them is not Python.
    """
    for name in modules:
        if module_file(name) is None:
            raise ValueError(f"there is no module {name}")
    return _hash(_closure(modules))


def module_hash(name: str) -> str:
    """The hash of one module alone, without those that it needs.

    Raises:
        ValueError: There is no such module.
    """
    path = module_file(name)
    if path is None:
        raise ValueError(f"there is no module {name}")
    return _hash({name: _source(path, name)})


def notebook_hash(notebook: Path | str) -> str:
    """The hash of what a notebook's code cells import of ours; the notebook itself is an input of its figure.

    Raises:
        InputError: A cell, or a module that one imports, is not Python.
    """
    return _hash(_closure(_imports_of_notebook(notebook)))


def notebook_modules(notebook: Path | str) -> list[str]:
    """The dotted names of every module of ours that a notebook's code cells need, sorted."""
    return sorted(_closure(_imports_of_notebook(notebook)))


def modules_of(*modules: str) -> list[str]:
    """The dotted names of some modules and of every module of ours that they need, sorted."""
    return sorted(_closure(modules))


def module_file(name: str) -> Path | None:
    """The source file of a module of ours; None where there is no such module."""
    for root in sorted(ROOTS, key=len, reverse=True):
        if name == root or name.startswith(f"{root}."):
            place = os.path.join(ROOTS[root], *name.removeprefix(root).split("."))
            files = [os.path.join(place, "__init__.py"), *([f"{place}.py"] if name != root else [])]
            return next((Path(file) for file in files if os.path.isfile(file)), None)
    return None


def read_all() -> None:
    """Read every module of the package, so that processes which this one forks need not."""
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE).with_suffix("")
        _source(path, ".".join([PACKAGE.name, *relative.parts]).removesuffix(".__init__"))


def _imports_of_notebook(notebook: Path | str) -> tuple[str, ...]:
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # Jupyter's own commands import nothing of ours.
    python = "\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in code.split("\n"))
    return _parsed(python, Path(notebook)).imports


@dataclass(frozen=True)
class _Source:
    """A source file.

    Attributes:
        folder: It is in this folder.
        digest: Of its pruned syntax tree.
        imports: The dotted names of ours that it needs: modules, and what it takes from modules.
        bound: Each name that an import gives to something of ours, and the dotted name of that; others may import it from here.
        stars: The modules of ours from which it imports everything.
        texts: Its strings that can be names of files.
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
    """Dotted name -> source of each module that some dotted names are or are in, and of all that these need."""
    found: dict[str, _Source] = {}
    files = cache(module_file)
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        # `from icl_lens.tasks.task import TASKS` names an attribute; the packages of a module run before it.
        module, inside = name, []
        while module and files(module) is None:
            module, _, last = module.rpartition(".")
            inside.insert(0, last)
        if not module or module in CONTRACT:
            continue
        if module not in found:
            found[module] = _source(files(module), module)
            waiting += [module.rpartition(".")[0], *found[module].imports]
        if inside and files(module).name in ("study.py", "group.py") and _is_private(inside[0]):
            raise InputError(
                f"{name}: what a study.py gives a private name is not in the hash of the code that imports it; give it a name "
                "without an underscore before it"
            )
        if inside:  # the module may have it from another one
            source = found[module]
            bound = [dotted for own, dotted in source.bound if own == inside[0]] or [f"{m}.{inside[0]}" for m in source.stars]
            waiting += [".".join([dotted, *inside[1:]]) for dotted in bound]
    found.pop(__name__, None)  # it computes no result; SCHEME stands for it
    return found


def _source(path: Path, module: str) -> _Source:
    try:
        code = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    return _parsed(code, path, module)


@lru_cache(maxsize=4096)
def _parsed(code: str, path: Path, module: str = "") -> _Source:
    """A source file, or the code of a notebook, which has no module's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and path.suffix == ".py" else ""
        raise InputError(f"{path}{where} is not Python: {getattr(error, 'msg', error)}; correct it") from error
    package = path.name == "__init__.py"
    before, annotating = _used(tree), _annotating(tree)
    tree = _Pruner(tree).visit(tree)
    _leave_out_declarations(tree, DECLARATIONS if path.name in ("study.py", "group.py") else SHARED_DECLARATIONS)
    # What only annotations and sentences used. A package's __init__ imports names for others.
    needless = set() if package else before - _used(tree)
    imports = _Imports(module if package else module.rpartition(".")[0], needless, annotating)
    tree = imports.visit(tree)
    return _Source(
        path.parent,
        hashlib.sha256("".join(_written(tree)).encode()).hexdigest(),
        tuple(dict.fromkeys([*imports.found, *_attributes(tree, imports.bound), *_named_modules(tree)])),
        tuple(imports.bound),
        tuple(imports.stars),
        frozenset(text for text in _texts(tree) if 0 < len(text) < 256 and text.isprintable()),
    )


def _used(tree: ast.AST) -> set[str]:
    """The names that code uses, or offers to others in ``__all__``."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if "__all__" in names:
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                names.update(_texts(node))
    return names


def _annotating(tree: ast.AST) -> set[str]:
    """The names in the annotations of functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        annotation = node.annotation if isinstance(node, ast.arg) else getattr(node, "returns", None)
        if isinstance(annotation, ast.expr):
            found |= {each.id for each in ast.walk(annotation) if isinstance(each, ast.Name)}
    return found


def _texts(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _data_files(source: _Source) -> list[str]:
    """Which of a module's strings name a file beside it, or below its folder."""
    beside = {entry.name for entry in os.scandir(source.folder) if entry.is_file()}
    below = {text for text in source.texts if "/" in text and ".." not in text and text[0] != "/"}
    found = (source.texts & beside) | {text for text in below if (source.folder / text).is_file()}
    return sorted(text for text in found if not text.endswith((".py", ".pyc")))


def _is_ours(dotted: str) -> bool:
    return dotted.split(".")[0] == PACKAGE.name


def _attributes(tree: ast.AST, bound: list[tuple[str, str]]) -> Iterator[str]:
    """What code takes from modules of ours by a dot, or by a name after ``import *``, with dotted names."""
    of_name: dict[str, list[str]] = {}
    for name, dotted in bound:
        of_name.setdefault(name, []).append(dotted)
    for base in of_name.get("*", ()):
        yield from (f"{base}.{name}" for name in sorted(_used(tree)))
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            yield from (".".join([dotted, *parts]) for dotted in of_name.get(node.id, ()))


def _named_modules(tree: ast.AST) -> Iterator[str]:
    """The strings that can be dotted names of ours: a module may be imported by one."""
    yield from (text for text in sorted(_texts(tree)) if _is_ours(text) and all(map(str.isidentifier, text.split("."))))


class _Imports(ast.NodeTransformer):
    """Finds what a tree imports of ours, and takes needless imports out.

    Args:
        package: The package of the module, for relative imports.
        needless: Names whose imports are left out of the tree, and not followed.
        annotating: Names whose imports are followed all the same.
    """

    def __init__(self, package: str, needless: set[str], annotating: set[str]) -> None:
        self.package, self.needless, self.annotating = package, needless, annotating
        self.found: list[str] = []
        self.bound: list[tuple[str, str]] = []
        self.stars: list[str] = []

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        for alias in node.names:
            first = alias.name.split(".")[0]
            self._take(alias.asname or first, alias.name, alias.name if alias.asname else first)
        node.names = [alias for alias in node.names if (alias.asname or alias.name.split(".")[0]) not in self.needless]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            anchor = parts[: len(parts) - node.level + 1]
            base = ".".join([*anchor, base] if base else anchor)
        for alias in node.names:
            if alias.name == "*":
                self._take("*", base, base)
                self.stars += [base] if _is_ours(base) else []
            else:
                self._take(alias.asname or alias.name, f"{base}.{alias.name}", f"{base}.{alias.name}")
        node.names = [alias for alias in node.names if (alias.asname or alias.name) not in self.needless]
        return node if node.names else None

    def _take(self, name: str, imported: str, meant: str) -> None:
        if _is_ours(imported):
            self.bound.append((name, meant))
            if name not in self.needless or name in self.annotating:
                self.found.append(imported)


class _Pruner(ast.NodeTransformer):
    """Takes out of a tree what changes no result."""

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
                setattr(node, name, [each for each in body if not _says_only(each)])
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._without_annotations(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._without_annotations(node)

    def _inside(self, node: ast.AST, in_class: bool) -> ast.AST:
        outside, self.in_class = self.in_class, in_class
        try:
            return self.generic_visit(node)
        finally:
            self.in_class = outside

    def _without_annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if all(_last_name(decorator) in DECORATORS for decorator in node.decorator_list):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            for argument in every:
                if argument is not None:
                    argument.annotation = None
            node.returns = None
        return self._inside(node, in_class=False)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if self.in_class or node.value is None:
            return self.generic_visit(node)
        return self.generic_visit(ast.Assign(targets=[node.target], value=node.value))

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if _last_name(node.test) == "TYPE_CHECKING":  # it is false whenever the code runs
            kept = [self.visit(each) for each in node.orelse]
            return [each for each in kept if not _says_only(each)]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call) and _last_name(node.exc) in SENTENCES:
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


def _leave_out_declarations(tree: ast.Module, names: Collection[str]) -> None:
    """Take what a study or group says of itself out of a pruned tree, with the private helpers that nothing else uses."""
    # KEYS may be a module's own name for something else.
    declared = [
        each
        for each in tree.body
        if set(_defines(each)) & set(names)
        and (not set(_defines(each)) & set(SHARED_DECLARATIONS) or _last_name(getattr(each, "value", None)) == "Keys")
    ]
    if not declared:
        return
    tree.body = [each for each in tree.body if each not in declared]
    while True:
        private = [each for each in tree.body if all(map(_is_private, _defines(each) or [""]))]
        used = [_used(each) - set(_defines(each)) for each in tree.body]
        unused = [each for each in private if not any(set(_defines(each)) & names for names in used)]
        if not unused:
            return
        tree.body = [each for each in tree.body if each not in unused]


def _defines(node: ast.stmt) -> list[str]:
    """The names of a function, of a class or on the left of an assignment; none of any other statement."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return names if len(names) == len(targets) else []


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _last_name(node: ast.expr) -> str:
    """``cache`` of ``cache``, ``functools.cache`` and ``functools.cache()``; empty for any other expression."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


# Functions that only tell something of their arguments.
_TELLING = frozenset("format join len list max min round set sorted str sum".split())


def _says_only(node: ast.AST) -> bool:
    """Whether a statement is a docstring (of a module, function, class or attribute), does nothing, or is about the log."""
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
    acts = any(
        isinstance(each, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom)
        or (isinstance(each, ast.Call) and each is not value and _last_name(each) not in _TELLING)
        for each in ast.walk(value)
    )
    return isinstance(value.func.value, ast.Name) and value.func.value.id == "logger" and not acts


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is a string that is written in the code, with or without values in it."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _written(node: object) -> Iterator[str]:
    """A tree as text, the same in every version of Python: empty fields and fields of some versions only are left out."""
    if isinstance(node, ast.JoinedStr):
        # Python 3.12.0 and 3.12.1 put empty strings between the parts.
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
            yield from _written(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for each in node:
            yield from _written(each)
            yield ","
        yield "]"
    else:
        # Versions of Python differ in which characters repr() escapes.
        yield f"{type(node).__name__}:{node!a}"

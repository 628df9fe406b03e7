import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icl_lens.artifacts import code
from icl_lens.errors import InputError

from ..conftest import REPOSITORY

ROOT = "icl_lens.studies.plugins.sample"
"""Where the tests' own modules are, as dotted names."""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a module below :data:`ROOT`, or a data file, and returns the hash of the module ``m``."""
    monkeypatch.setitem(code.ROOTS, ROOT, tmp_path)

    def write(text, file="m.py"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return code.code_hash(f"{ROOT}.m") if (tmp_path / "m.py").exists() else None

    return write


def test_the_hash_names_its_rules():
    assert re.fullmatch(r"syntax-1:[0-9a-f]{64}", code.code_hash("icl_lens.errors"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "'''What it is.'''\n\n# A comment.\nx = (  1)"),
        ("x = 1", "x = 1\n'''What x is.'''\n"),
        ("x = 'a' 'b'", 'x = "ab"'),
        ("x = 1000", "x = 1_000"),
        ("def f(): pass", "def f():\n    '''What it does.'''"),
        ("class Fault(Exception): pass", "class Fault(Exception):\n    '''What is wrong.'''"),
        ("class A:\n    x = 1", "class A:\n    '''A.'''\n    x = 1\n    '''x.'''"),
        ("def f(a, *b, c=1, **d): return a", "def f(a: int, *b: str, c: int = 1, **d: float) -> int: return a"),
        ("async def f(a): return a", "async def f(a: int) -> int:\n    '''f.'''\n    return a"),
        ("class A:\n    @property\n    def f(self): return 1", "class A:\n    @property\n    def f(self) -> int: return 1"),
        (
            "import torch\n@torch.inference_mode()\ndef f(a): return a",
            "import torch\n@torch.inference_mode()\ndef f(a: int) -> int: return a",
        ),
        ("x = []", "x: list[int] = []"),
        ("def f():\n    x = []\n    return x", "def f():\n    x: list[int] = []\n    return x"),
        ("def f(x): return x", "from pathlib import Path\ndef f(x: Path) -> Path: return x"),
        (
            "def f(x): return x",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ast\ndef f(x: ast.AST): return x",
        ),
        ("raise ValueError('a')", "raise ValueError(f'b {x}') "),
        ("raise InputError(1, 'a')", "raise InputError(1, 'b')"),
        ("assert x", "assert x, 'a sentence'"),
        (
            "def f(): return 1",
            "import logging\nlogger = logging.getLogger(__name__)\ndef f():\n    logger.info('%d', 2)\n    return 1",
        ),
        (
            "from pydantic import Field\nclass A:\n    x: int = Field(1, description='a')",
            "from pydantic import Field\nclass A:\n    x: int = Field(1, description='b')",
        ),
        ("class A:\n    x: int = 1\n    def f(self): return 1", "class A:\n    x: int = 1\n    def f(self) -> int: return 1"),
    ],
)
def test_what_changes_no_result_is_left_out(write, before, after):
    assert write(before) == write(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 1", "x = '1'"),
        ("x = '1'", "x = b'1'"),
        ("x = 0.0", "x = -0.0"),
        ("x = 1e400", "x = 1e400j"),
        ("x = None", "x = ..."),
        ("x = []", "x = ()"),
        ("x = a + b", "x = a - b"),
        ("x = a < b", "x = a <= b"),
        ("x = {**a}", "x = {None: a}"),
        ("x = a[1:]", "x = a[:1]"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x = f'{a:3}'", "x = f'{a:4}'"),
        ("x = f'{a}b'", "x = f'{a}', 'b'"),
        ("def f(a=1): pass", "def f(a=2): pass"),
        ("def f(a, /, b): pass", "def f(a, b): pass"),
        ("def f(a, *, b): pass", "def f(a, b): pass"),
        ("def f(): return", "async def f(): return"),
        ("def f(): yield", "def f(): return"),
        ("raise ValueError('a')", "raise TypeError('a')"),
        ("raise InputError(1, 'a')", "raise InputError(2, 'a')"),
        ("raise Fault(x)", "raise Fault(y)"),
        ("raise KeyError('a')", "raise KeyError('b')"),
        ("logger.info('%s', x.pop())", "logger.info('%s', x)"),
        ("assert x, 'a'", "assert y, 'a'"),
        ("class A:\n    x: int = 1", "class A:\n    x: float = 1"),
        ("class A:\n    x: int = Field(1)", "class A:\n    x: int = Field(1, ge=0)"),
        (
            "from mine import Field\nx = Field(1, description='a')",
            "from mine import Field\nx = Field(1, description='b')",
        ),
        ("description = 'a'", "description = 'b'"),
        ("@cache\ndef f(): pass", "def f(): pass"),
        ("@field_validator('x')\ndef f(a: int): pass", "@field_validator('x')\ndef f(a: str): pass"),
        ("@f.register\ndef g(a: int): pass", "@f.register\ndef g(a: str): pass"),
        ("logger.info(x := 1)", "logger.info(x := 2)"),
        ("log.info(1)", "log.info(2)"),
        ("for x in y:\n    if x: continue\n    f(x)", "for x in y:\n    if x: break\n    f(x)"),
        ("if x: f()\nelse: g()", "if x: g()\nelse: f()"),
        ("match x:\n    case 1: f()", "match x:\n    case 2: f()"),
        ("match x:\n    case [*_]: f()", "match x:\n    case [*a]: f()"),
        ("match x:\n    case None: f()", "match x:\n    case True: f()"),
        ("try: f()\nexcept A: g()", "try: f()\nexcept* A: g()"),
        ("import ast as x", "import abc as x"),
        ("from . import a", "from .. import a"),
        ("def f(x): return x", "x = 1\ndef f(x): return x"),
        ("global_ = 1", "STUDY = 1"),
    ],
)
def test_what_can_change_a_result_counts(write, before, after):
    assert write(before) != write(after)


FIXTURE = """
from __future__ import annotations
import numpy as np
from collections.abc import Callable
ALPHA, *REST = (0.1, 1e-300, 1e400, 2j, -0.0, 10**3, 0xFF, True, None, ..., b"\\xff", "\\u1c89 \\U0001faea \\ud800 'q' \\\\")
TEXT = f"{ALPHA!r:>{len(REST)}}" f"" "a" f"{REST[0]:{ALPHA}}{REST[1:]}" "" f"{{}}{ALPHA = }" f"{ALPHA:%Y-%m}"
@np.vectorize(otypes=[float])
def f(a: int, /, b: Callable = lambda x, *y, **z: x if x else (yield), *args: int, c=1, d, **more) -> float:
    '''What it does.'''
    global TEXT
    del a
    with open("x") as g, b:
        assert g, "sentence"
    for i, (j, *k) in enumerate(args):
        if i < j <= 3 and not (k or ~i): continue
        else: c **= 2
    while (n := 3) > 2: break
    try:
        raise ValueError(f"{TEXT}") from None
    except (ValueError, *args) as error: c @= error
    else: c //= 1
    finally: c >>= 1
    return {1: c, **more}, {i for i in args if i}, [*args], {i: j async for i, j in c}, c[1:2, ::3, ...], a is not c
async def g(x):
    match x:
        case {"a": 1, **rest} if rest: return await x
        case [1 | 2, *_] | np.array(shape=None) as y: nonlocal_ = -1
        case _: pass
    try: pass
    except* OSError: pass
class A(np.ndarray, metaclass=type):
    x: list[int] = []
    y: int
"""
FIXTURE_HASH = "syntax-1:91b2466aec479016ce70acbeb36bf5a649949e749ab2830279fd04b9b0b5dc66"


def test_every_version_of_python_hashes_alike(write):
    write(FIXTURE)
    assert code.module_hash(f"{ROOT}.m") == FIXTURE_HASH


SCRIPT = """
import sys
from icl_lens.artifacts import code
print(code.code_hash("icl_lens.studies.run"), code.modules_of("icl_lens.studies.run"))
for name in sys.argv[1:]:
    print(name, code.module_hash(name))
"""


def _other_pythons():
    """Return one interpreter for each other supported Python version that is installed, keyed by version."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
    candidates += sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    found = {}
    for python in filter(None, candidates):
        told = subprocess.run(
            [python, "-S", "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        version = tuple(map(int, told.stdout.split())) if told.returncode == 0 else ()  # a shim may point to no interpreter
        if version >= (3, 11) and version != sys.version_info[:2]:
            found.setdefault(version, python)
    return found


def test_the_other_versions_of_python_here_hash_every_module_alike():
    others = _other_pythons()
    if not others:
        pytest.skip("no other version of Python from 3.11 on is on PATH or in ~/.pyenv/versions")
    names = [".".join([code.PACKAGE.name, *path.relative_to(code.PACKAGE).parts]) for path in code.PACKAGE.rglob("*.py")]
    names = sorted(name.removesuffix(".py").removesuffix(".__init__") for name in names)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(python):  # start all processes in parallel, because each parses the whole package
        return subprocess.Popen([python, "-S", "-c", SCRIPT, *names], env=environment, stdout=subprocess.PIPE, text=True)

    runs = {sys.version_info[:2]: start(sys.executable), **{version: start(python) for version, python in others.items()}}
    told = {version: run.communicate()[0] for version, run in runs.items()}
    assert told[sys.version_info[:2]].count("\n") == 1 + len(names) > 100
    assert [version for version in told if told[version] != told[sys.version_info[:2]]] == []


def needed(write, text, **files):
    """Return the modules below :data:`ROOT` that the module ``m`` needs."""
    for name, other in files.items():
        write(other, f"{name}.py")
    write(text)
    return {name.removeprefix(f"{ROOT}.") for name in code.modules_of(f"{ROOT}.m") if name.startswith(f"{ROOT}.")} - {"m"}


@pytest.mark.parametrize(
    "text",
    [
        f"from {ROOT} import a\na.f()",
        f"from {ROOT}.a import f\nf()",
        f"from {ROOT}.a import f as g\ng()",
        f"import {ROOT}.a as b\nb.f()",
        f"import {ROOT}.a\nf()",  # unused, but imported for its side effects
        f"import icl_lens\nicl_lens.{ROOT.removeprefix('icl_lens.')}.a.f()",
        "from . import a\na.f()",
        "from .a import f\nf()",
        "from .a import *",
        "def g():\n    from .a import f\n    return f()",
        "if x:\n    from .a import f\nelse:\n    f = None\nf()",
        "try:\n    from .a import f\nexcept ImportError:\n    f = None\nf()",
        "from .a import f\n__all__ = ['f']",
        "from .a import f\n__all__ = []\n__all__ += ['f']",
        "from .a import f as f",
        "from .a import f\n@f\ndef g(): pass",
        "from .a import f\ndef g(x=f): pass",
        "from .a import f\nclass A:\n    x: f",
        "from .a import f\n@field_validator('x')\ndef g(x: f): pass",
        "from .a import f\nraise f('a sentence')",
        f"from importlib import import_module\nimport_module('{ROOT}.a')",
    ],
)
def test_an_import_is_followed(write, text):
    assert needed(write, text, a="f = 1") == {"a"}


@pytest.mark.parametrize(
    "text",
    [
        "from .a import f\nx: f = 1",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import f\ndef g(x: f): pass",
        "import typing\nif typing.TYPE_CHECKING:\n    from .a import f\ndef g(x: f): pass",
        "from .a import f\nraise ValueError(f'{f}')",
        "from .a import f\nlogger.info('%s', f)",
        "from pydantic import Field\nfrom .a import f\nclass A:\n    x: int = Field(1, description=f)",
    ],
)
def test_an_import_that_only_sentences_use_is_neither_followed_nor_hashed(write, text):
    assert needed(write, text, a="f = 1") == set()
    assert write(text) == write(text.replace("from .a import f", "from .a import g as f"))


@pytest.mark.parametrize("text", ["from .a import f\ndef g(x: f): return x.y()", "from .a import f\ndef g() -> f: return h()"])
def test_the_class_of_an_argument_is_followed_because_its_methods_run(write, text):
    assert needed(write, text, a="class f:\n    def y(self): return 1") == {"a"}


@pytest.mark.parametrize(
    "text",
    [
        "from .b import f\nf()",
        "from . import b\nb.f()",
        f"import {ROOT}.b as c\nc.f()",
        "from .b import *\nf()",
    ],
)
@pytest.mark.parametrize("between", ["from .a import f\ndef g(x: f): pass", "from .a import *", "from .a import f as f"])
def test_a_name_is_followed_through_the_module_that_imports_it(write, text, between):
    assert needed(write, text, a="def f(): pass", b=between) == {"a", "b"}


def test_what_a_package_imports_is_followed_for_others(write):
    files = {"p/__init__": "from ..a import f\ndef g(x: f): pass", "p/b": "g = 1", "a": "f = 1"}
    assert needed(write, "from .p.b import g\ng()", **files) == {"p", "p.b", "a"}


def test_modules_that_import_each_other_are_hashed(write):
    write("from . import m\nx = m.y", "a.py")
    first = write("from . import a\ny = 1\ndef f(): return a.x")
    write("from . import m\nx = m.z", "a.py")
    assert write("from . import a\ny = 1\ndef f(): return a.x") != first


def test_an_edit_of_a_module_that_is_needed_counts_and_of_another_does_not(write):
    write("x = 1", "a.py"), write("x = 1", "b.py")
    first = write("from .a import x\ny = x")
    assert write("x = 2", "b.py") == first
    assert write("x = 1  # one", "a.py") == first
    assert write("x = 2", "a.py") != first


DECLARED = """
from icl_lens.studies.study import Study
X = 1
def _work(job): return 1
def _passes(job): return _work(job)
STUDY = Study(help="{help}", work=_passes)
"""


@pytest.mark.parametrize("name", ["STUDY", "GROUP"])
def test_what_a_study_says_of_itself_is_left_out_of_study_py_and_group_py_only(write, name):
    text = DECLARED.replace("STUDY", name)
    hashes = {}
    for module in ("study", "group", "other"):
        hashes[module] = []
        for edited in (text, text.replace("{help}", "more"), text.replace("return 1", "return 2")):
            write(edited, f"{module}.py")
            hashes[module].append(write(f"from .{module} import X\ny = X"))
    assert len(set(hashes["study"])) == 1
    assert len(set(hashes["group"])) == 1
    assert len(set(hashes["other"])) == 3
    assert "icl_lens.studies.study" not in code.modules_of(f"{ROOT}.study")
    assert "icl_lens.studies.study" not in code.modules_of(f"{ROOT}.other"), "the contract computes nothing"


def test_another_use_of_the_name_counts(write):
    write("KEYS = (1, 2)\nX = KEYS", "shared.py")
    first = write("from .shared import X\ny = X")
    write("KEYS = (1, 3)\nX = KEYS", "shared.py")
    assert write("from .shared import X\ny = X") != first


def test_a_private_name_of_a_study_py_is_refused_because_its_edit_would_not_count(write):
    write("_X = 1\nSTUDY = 2", "study.py")
    with pytest.raises(InputError, match="remove the leading underscore"):
        write("from .study import _X\ny = _X")


def test_keys_that_studies_share_are_left_out_of_any_module(write):
    text = "from icl_lens.studies.study import Keys\nX = {x}\nKEYS = Keys('a', X, '{help}')\n"
    hashes = []
    for x, words in ((1, "one"), (1, "two"), (2, "one")):
        write(text.replace("{x}", str(x)).replace("{help}", words), "shared.py")
        hashes.append(write("from .shared import X\ny = X"))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    "text",
    [
        "X = {value}\nSTUDY = 1",
        "def _f(): return {value}\nX = _f()\nSTUDY = _f",
        "def _f(): return {value}\ndef g(): return _f()",
        "def public(): return {value}\nSTUDY = public",
        "_f({value})",
    ],
)
def test_what_else_is_in_study_py_counts(write, text):
    hashes = []
    for value in (1, 2):
        write(text.format(value=value), "study.py")
        hashes.append(write("from .study import X\ny = X"))
    assert hashes[0] != hashes[1]


def test_a_data_file_beside_a_module_counts_where_its_code_names_it(write):
    write("1", "words.csv"), write("1", "more/words.csv"), write("1", "other.csv")
    first = write("x = open(FOLDER / 'words.csv'), open(FOLDER / 'more/words.csv')")
    assert write("2", "other.csv") == first
    second = write("2", "words.csv")
    assert second != first
    assert write("2", "more/words.csv") not in (first, second)
    without = write("'''It is like words.csv.'''\nx = 1")
    assert write("3", "words.csv") == without


def test_a_data_file_that_comes_later_counts(write):
    first = write("x = open('words.csv')")
    assert write("1", "words.csv") != first


def test_a_plugin_hashes_alike_wherever_its_folder_is(tmp_path, monkeypatch):
    hashes = []
    for place in ("here", "there/deeper"):
        folder = tmp_path / place / "sample"
        folder.mkdir(parents=True)
        (folder / "study.py").write_text("X = 1")
        (folder / "words.csv").write_text("a")
        (folder / "m.py").write_text(f"from .study import X\nfrom {ROOT} import study\nx = X, study, 'words.csv'")
        monkeypatch.setitem(code.ROOTS, ROOT, folder)
        hashes.append(code.code_hash(f"{ROOT}.m"))
        assert f"{ROOT}.study" in code.modules_of(f"{ROOT}.m")
    assert hashes[0] == hashes[1]


def test_a_file_beside_a_plugins_folder_is_not_its_module(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample.py").write_text("x = 1")
    monkeypatch.setitem(code.ROOTS, ROOT, tmp_path / "sample")
    assert code.module_file(ROOT) is None


def test_a_module_that_does_not_exist_has_no_hash(write):
    with pytest.raises(ValueError, match=r"unknown module icl_lens\.absent"):
        code.code_hash("icl_lens.absent")
    with pytest.raises(ValueError, match=r"unknown module icl_lens\.absent"):
        code.module_hash("icl_lens.absent")


@pytest.mark.parametrize(
    ("text", "fault"),
    [("x = 1\nx = (\n", r"m\.py, line 2 is not valid Python: '\(' was never closed"), ("x = 1\0", "is not valid Python")],
)
def test_a_module_that_is_not_python_is_refused_with_its_place(write, text, fault):
    with pytest.raises(InputError, match=fault):
        write(text)


def test_a_module_that_is_not_utf_8_is_refused(write, tmp_path):
    write("x = 1")
    (tmp_path / "m.py").write_bytes(b"x = '\xe9'")
    with pytest.raises(InputError, match=r"m\.py is not UTF-8 text; save it as UTF-8"):
        code.code_hash(f"{ROOT}.m")


def test_the_hash_of_a_module_alone_tells_nothing_of_what_it_needs(write):
    write("x = 1", "a.py")
    write("from .a import x\ny = x")
    alone = code.module_hash(f"{ROOT}.m")
    write("x = 2", "a.py")
    assert code.module_hash(f"{ROOT}.m") == alone
    write("from .a import x\ny = -x")
    assert code.module_hash(f"{ROOT}.m") != alone


def notebook(path, *cells):
    made = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["import nothing"]}, *made]}))
    return path


def test_a_notebook_depends_on_what_its_cells_use(write, tmp_path):
    write("x = 1", "a.py"), write("x = 1", "b.py")
    path = notebook(tmp_path / "n.ipynb", "%matplotlib inline\n!ls\nfrom icl_lens.studies.plugins.sample import a", "a.x")
    assert f"{ROOT}.a" in code.notebook_modules(path)
    first = code.notebook_hash(path)
    write("x = 2", "b.py")
    assert code.notebook_hash(path) == first
    write("x = 2", "a.py")
    assert code.notebook_hash(path) != first


def test_a_notebook_that_is_not_python_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"n\.ipynb is not valid Python: invalid syntax"):
        code.notebook_hash(notebook(tmp_path / "n.ipynb", "a b"))


def test_studies_depend_on_what_they_compute_with_and_on_no_other_study():
    saliency = code.modules_of("icl_lens.studies.anchors.saliency.compute", "icl_lens.studies.run")
    assert {"icl_lens.models.language_model", "icl_lens.prompts.positions", "icl_lens.errors"} <= set(saliency)
    above = ("icl_lens.report", "icl_lens.config", "icl_lens.cli", "icl_lens.studies.registry", "icl_lens.prompts.protocol")
    assert not [name for name in saliency if name.startswith(above)]
    assert not [name for name in saliency if name.endswith(".compute") and "saliency" not in name]


def test_the_module_that_hashes_code_is_no_part_of_the_hash():
    assert code.__name__ not in code.modules_of("icl_lens.studies.run")


def test_reading_all_modules_beforehand_changes_no_hash():
    before = code.code_hash("icl_lens.studies.run")
    code.read_all()
    assert code.code_hash("icl_lens.studies.run") == before

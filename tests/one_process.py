"""The workflow in a single process: each artifact and item of a config, without Snakemake, kernels or repeated imports.

It runs the same commands as the rules (:func:`icl_lens.cli.commands.main`), so a study reads and writes the same files as in a
real run. It executes a notebook's cells one by one, as a kernel does. :mod:`tests.workflow` checks that the rules agree with
this module.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock
from xml.sax.saxutils import escape

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from icl_lens.artifacts import files, notebooks
from icl_lens.cli import commands
from icl_lens.config import parse
from icl_lens.models import loading
from icl_lens.models.language_model import LanguageModel
from icl_lens.report import page
from icl_lens.studies import registry

from .conftest import REPOSITORY


class Run:
    """Results of one config.

    Attributes:
        config: The config.
        results: Its results folder.
        draw: Whether to render figures, which takes most of the time. If not, placeholder files are written.
    """

    def __init__(self, mapping: dict[str, Any], draw: bool = True) -> None:
        self.draw = draw
        self.config = parse.parse(mapping).with_checkpoints()
        self.results = Path(self.config.results)
        self._models: dict[tuple, LanguageModel] = {}

    def items(self) -> list[str]:
        """Return the items that `all` makes."""
        shown = {name: item for name, item in registry.items().items() if all(self.config.shown(name))}
        return [name for name, item in shown.items() if item.in_all and item.group in self.config.groups]

    def walks(self) -> list[Path]:
        """Return the folders of the studies that the walkthrough of the report shows."""
        tasks = self.config.tasks
        return [self.results / f"studies/{m}/{task}/shared-1shot" for m in self.config.shown("figure_1")[0] for task in tasks]

    def study(self, model: str, task: str, set_name: str, study: str) -> Path:
        """Run one study of one model, and create the prompts that it reads."""
        out = self.results / f"studies/{model}/{task}/{set_name}/{study}.parquet"
        if out.exists():
            return out
        settings = self.config.settings(study, task)
        with self._loaded_once():
            _command(
                registry.study(study).command,
                *("--model", self.config.model(model).path, "--name", model, "--device", "cpu"),
                *("--prompts", self.prompts(task, set_name), "--out", out),
                *("--dtype", self.config.model(model).dtype or self.config.dtype),
                *(("--settings", settings.model_dump_json()) if settings else ()),
                *self._further(study, task),
            )
        return out

    def _further(self, study: str, task: str) -> list[Any]:
        settings = self.config.settings(study, task)
        named = {further.option: further.set_name(settings) for further in registry.study(study).further}
        return [part for option, name in named.items() for part in (f"--{option}", self.prompts(task, name))]

    def prompts(self, task: str, set_name: str) -> Path:
        """Create one prompt set of a task, and the corpus that it is sampled from."""
        out = self.results / f"prompts/{task}/{set_name}.parquet"
        if out.exists():
            return out
        if set_name == "paired":
            settings = self.config.settings("representation_change", task)
            _command("representation-prompts", "--task", task, "--settings", settings.model_dump_json(), "--out", out)
            return out
        corpus = self.results / f"corpora/{self.config.text_source(task)}.parquet"
        if not corpus.exists():
            _command("corpora", "--task", corpus.stem, "--seed", self.config.data.seed, "--out", corpus)
        own = self.config.definition(task)
        _command(
            *("prompts", "--task", task, "--corpus", corpus, "--set", set_name, "--out", out),
            *("--seeds", *self.config.seeds, "--queries", self.config.queries),
            *("--auxiliary", self.config.studies.reweighting.auxiliary),
            *(("--definition", own.model_dump_json(exclude_unset=True)) if own else ()),
        )
        return out

    def inputs(self, item: str) -> list[Path]:
        """Create all files that an item reads."""
        shown, found = registry.items()[item], [self.results / name for name in registry.items()[item].reads]
        for path in found:
            if path.name == "hidden_markov.parquet" and not path.exists():
                settings = self.config.studies.hidden_markov.model_dump_json()
                _command("hidden-markov", "--settings", settings, "--out", path)
        for folder in self._folders(item):
            model, task, set_name = folder.parts[-3:]
            found += [self.study(model, task, set_name, study) for study in shown.studies]
        return found + [folder / f"{study}.safetensors" for folder in self._folders(item) for study in shown.tensors]

    def _folders(self, item: str) -> list[Path]:
        models, tasks = self.config.shown(item)
        shown = registry.items()[item]
        return [self.results / f"studies/{m}/{t}/{shown.set}" for m in models for t in tasks] if shown.studies else []

    def item(self, item: str) -> None:
        """Execute an item's notebook, and write the item's files and its record.

        Raises:
            Exception: Any exception that the notebook raises.
        """
        inputs, kind = self.inputs(item), registry.items()[item].kind
        out = self.results / f"{kind}s/{item}"
        out.parent.mkdir(parents=True, exist_ok=True)
        parameters: dict[str, Any] = {"item": item, "out": str(out)}
        if registry.items()[item].reads:
            parameters["tables"] = [str(path) for path in inputs]
        elif registry.items()[item].studies:
            parameters["studies"] = [str(folder) for folder in self._folders(item)]
        else:
            parameters["tasks"] = [asdict(self.config.task(task)) for task in self.config.shown(item)[1]]
        if registry.items()[item].over_training:
            parameters["steps"] = {name: self.config.model(name).step for name in self.config.shown(item)[0]}
        source = REPOSITORY / f"notebooks/{registry.items()[item].notebook}.ipynb"
        executed = self.results / f"notebooks/{item}.ipynb"
        with contextlib.nullcontext() if self.draw else mock.patch.object(Figure, "savefig", _blank):
            execute(source, parameters)
        artifacts_of = {"figure": ("csv", "svg"), "table": ("csv", "md", "tex")}[kind]
        with files.whole_file(executed) as temporary:
            temporary.write_text(source.read_text())
        made = [out.with_name(f"{item}.{ending}") for ending in artifacts_of]
        notebooks.write_record(out.with_name(f"{item}.json"), inputs, [*made, executed])

    def report(self, items: list[str]) -> Path:
        """Write the report with these items and the claims of each paper."""
        for folder in self.walks():
            model, task, set_name = folder.parts[-3:]
            for study in [study.name for study in registry.studies().values() if study.walked]:
                self.study(model, task, set_name, study)
        claims = [REPOSITORY / f"src/icl_lens/resources/claims/{group}.yaml" for group in self.config.groups]
        out = self.results / "report/index.html"
        page.write(self.results, items, claims, REPOSITORY / "src/icl_lens/resources/report", out, self.walks())
        return out

    @contextlib.contextmanager
    def _loaded_once(self):
        load = loading.load

        def kept(folder, options):
            key = (str(folder), options)
            if key not in self._models:
                self._models[key] = load(folder, options)
            return self._models[key]

        with mock.patch.object(loading, "load", kept):
            yield


def execute(source: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook's cells in this process with other parameters.

    The value of a cell's last expression is displayed, as a kernel does.

    Raises:
        Exception: Any exception that a cell raises.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(source.read_text())["cells"]):
        if cell["cell_type"] != "code":
            continue
        _run_cell("".join(cell["source"]), f"{source.name}, cell {number}", namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            namespace |= parameters
    plt.close("all")


def _run_cell(source: str, name: str, namespace: dict[str, Any]) -> None:
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        repr(value)
        if hasattr(value, "_repr_html_"):
            value._repr_html_()


def _command(*arguments: Any) -> None:
    """Run one icl-lens command; if it fails, its stderr is the assertion message."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = commands.main([str(argument) for argument in arguments])
    assert code == 0, told.getvalue()


def _blank(figure: Figure, path: Path, **_: Any) -> None:
    """Write the figure's texts to an SVG file instead of rendering the figure."""
    texts = "".join(f"<text>{escape(text.get_text())}</text>" for text in figure.findobj(Text))
    Path(path).write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{texts}</svg>')

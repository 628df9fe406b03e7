"""Build step of the package: copy the files of the workflow into the wheel. pyproject.toml contains everything else."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

COPIED = (
    "Snakefile",
    "config.yaml",
    "config",
    "workflow",
    "notebooks",
    "profiles",
    "envs",
    "examples/recency",
    "examples/tickets",
)
"""Files and folders of the repository that are copied. :func:`icl_lens.resources.workflow` returns the folder of the copies."""

PLACE = "icl_lens/resources/workflow"
"""Folder of the copies in the package. The repository does not contain it, and an editable installation does not need it."""


class BuildWorkflow(Command):
    """Build step that copies the files of the workflow; see the protocol ``setuptools.command.build.SubCommand``."""

    description = "copy the files of the workflow into the package"
    user_options = ()
    editable_mode = False

    def initialize_options(self) -> None:
        """Declare the options of the build."""
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        """Take the build folder from ``build_py``."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def get_source_files(self) -> list[str]:
        """Return the files to copy, which the source distribution therefore contains, too."""
        files = [path for name in COPIED for path in ([Path(name)] if Path(name).is_file() else sorted(Path(name).rglob("*")))]
        return [
            path.as_posix() for path in files if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & {*path.parts}
        ]

    def get_output_mapping(self) -> dict[str, str]:
        """Return each copy with its source file."""
        if self.editable_mode:
            return {}
        return {f"{self.build_lib}/{PLACE}/{name}": name for name in self.get_source_files()}

    def get_outputs(self) -> list[str]:
        """Return the copies."""
        return list(self.get_output_mapping())

    def run(self) -> None:
        """Copy the files. Copies of an earlier build are deleted first, because their source files may be gone."""
        if self.editable_mode:
            return
        shutil.rmtree(Path(self.build_lib, PLACE), ignore_errors=True)
        for copied, name in self.get_output_mapping().items():
            Path(copied).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, copied)


class Build(build):
    """The build with the additional step."""

    sub_commands = (*build.sub_commands, ("build_workflow", None))


setup(cmdclass={"build": Build, "build_workflow": BuildWorkflow})

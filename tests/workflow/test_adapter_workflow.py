"""Tests of a LoRA adapter in the workflow: it is checked before any job, and an edited adapter reruns the studies."""

import os

import pytest

from icl_lens.artifacts import parquet
from icl_lens.hub import adapters

from ..unit.test_adapters import adapted, needs_peft
from .conftest import TINY
from .test_changed_inputs import edit_weights
from .test_workflow import jobs

TARGET = "adapted/studies/tuned/sst2/shared-1shot/icl.parquet"


@needs_peft
@pytest.mark.long
def test_an_adapter_is_checked_before_any_job_and_an_edited_one_reruns_its_studies(with_model):
    models = [*TINY["models"], {"name": "tuned", "path": "my models/tiny", "adapter": "my adapters/lora"}]
    overlay = with_model.config("adapted", **{**TINY, "models": models, "tasks": ["sst2"], "results": "adapted"})
    run = ("--cores", "2", "--configfile", overlay.name)
    refused = with_model.snakemake(TARGET, *run)
    assert refused.returncode != 0
    assert "adapter folder my adapters/lora does not exist" in refused.stdout
    assert not (with_model.folder / "adapted" / "prompts").exists()

    folder = adapted(with_model.folder / "my models/tiny", with_model.folder / "my adapters/lora", "gpt2")
    done = with_model.snakemake(TARGET, TARGET.replace("tuned", "tiny"), *run)
    assert done.returncode == 0, done.stdout
    found, plain = (
        parquet.read_metadata(with_model.folder / TARGET.replace("tuned", name))["model"] for name in ("tuned", "tiny")
    )
    assert found["adapter"]["files"] == adapters.adapter_hash(folder)
    assert found["files"] == plain["files"]
    assert "adapter" not in plain
    (folder / "README.md").write_text("not read")
    os.utime(folder / adapters.WEIGHTS, (1_000_000_000, 1_000_000_000))
    assert not jobs(with_model.snakemake(TARGET, *run, "-n"))
    edit_weights(folder / adapters.WEIGHTS)
    assert jobs(with_model.snakemake(TARGET, TARGET.replace("tuned", "tiny"), *run, "-n")) == {"icl": 1, "total": 1}

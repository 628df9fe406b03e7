import io
import shutil
from pathlib import PurePosixPath

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig

from icl_lens.config import parse, plan
from icl_lens.errors import InputError

from ..conftest import REPOSITORY

SUMMARY = """\
output_file\tdate\trule\tlog-file(s)\tstatus\tplan
r/figures/figure_3.pdf\t-\tfigure\t-\tmissing\tupdate pending
r/figures/figure_3.csv\t-\tfigure\t-\tmissing\tupdate pending
r/notebooks/figure_3.ipynb\t-\tfigure\t-\tmissing\tupdate pending
r/studies/gpt2-xl/sst2/fresh-1shot/saliency.parquet\t-\tsaliency\t-\tmissing\tupdate pending
r/studies/gpt2-xl/sst2/shared-2shot/icl.parquet\t-\ticl\t-\tmissing\tupdate pending
r/corpora/sst2.parquet\t-\tcorpora\t-\tok\tno update
"""


@pytest.fixture
def paper():
    return parse.load(REPOSITORY / "config.yaml", REPOSITORY / "config/paper.yaml")


def test_jobs_are_counted_once_and_those_that_are_done_not_at_all():
    counts, studies = plan.jobs(io.StringIO(SUMMARY))
    assert counts == {"figure": 1, "saliency": 1, "icl": 1}
    assert [path.name for path in studies] == ["saliency.parquet", "icl.parquet"]


def test_what_is_no_summary_is_refused():
    with pytest.raises(InputError, match="standard input is not a Snakemake summary"):
        plan.jobs(io.StringIO("nothing\n"))
    with pytest.raises(InputError, match="standard input, line 2: a row has 1 of the 3 fields of a Snakemake summary"):
        plan.jobs(io.StringIO("output_file\trule\tplan\na\n"))


def test_an_estimate_is_the_formula_it_says(paper):
    study = plan.estimate(paper, PurePosixPath("r/studies/gpt2-xl/sst2/fresh-1shot/saliency.parquet"))
    assert study.prompts == 5 * 872
    operations = 2 * 1_557_611_200 * 5 * 872 * 71 * 3
    assert study.hours * 3600 == pytest.approx(operations / 20e12 + 4 * 1.557611200, rel=1e-6)
    # With 48 layers there are 4 layer counts and 2 sides for label, newline, template and 5 draws of random tokens.
    # The plain run adds one.
    isolation = plan.estimate(paper, PurePosixPath("r/studies/gpt2-xl/trec/shared-2shot/isolation.parquet"))
    shared = plan.estimate(paper, PurePosixPath("r/studies/gpt2-xl/trec/shared-2shot/icl.parquet"))
    loading = 4 * 1.557611200 / 3600
    assert (isolation.hours - loading) / (shared.hours - loading) == pytest.approx(4 * 2 * (3 + 5) + 1)
    assert shared.prompts == 5 * 500
    operations = 2 * 1_557_611_200 * (5 * 500 * 14 + 5 * 2 * (131 - 14))
    assert shared.hours * 3600 == pytest.approx(operations / 20e12 + 4 * 1.557611200, rel=1e-6)


@pytest.mark.parametrize(
    ("hub", "shape"),
    [
        ("openai-community/gpt2-xl", GPT2Config(n_embd=1600, n_layer=48, n_head=25)),
        ("EleutherAI/gpt-j-6b", GPTJConfig()),
        (
            "huggyllama/llama-30b",
            LlamaConfig(hidden_size=6656, intermediate_size=17920, num_hidden_layers=60, num_attention_heads=52),
        ),
    ],
)
def test_the_sizes_are_those_of_the_architectures(hub, shape):
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(shape)
    assert plan.SIZES[hub][:2] == (sum(p.numel() for p in network.parameters()), shape.num_hidden_layers)


def test_a_model_that_is_here_is_measured_and_takes_no_download(checkpoint):
    from icl_lens.models import loading

    own = parse.parse({"models": [{"name": "own", "path": str(checkpoint)}]})
    parameters = sum(p.numel() for p in loading.load(checkpoint).network.parameters())
    # The file stores tied weights once.
    assert plan.size(own, own.models[0]) == (parameters, 3, 0)


@pytest.mark.parametrize("content", ["{}", "[", "[]", "\udcff", 100_000 * "["])
def test_a_model_with_a_corrupted_configuration_is_told(checkpoint, tmp_path, content):
    folder = shutil.copytree(checkpoint, tmp_path / "m")
    (folder / "config.json").write_text(content, errors="surrogateescape")
    config = parse.parse({"models": [{"name": "m", "path": str(folder)}]})
    with pytest.raises(InputError, match=r"model m: .* is not a complete checkpoint; fetch or copy it again"):
        plan.size(config, config.models[0])


def test_a_model_of_unknown_size_is_told():
    own = parse.parse({"models": [{"name": "own", "hub": "someone/something"}]})
    with pytest.raises(InputError, match="model own: the size is unknown until the model is fetched"):
        plan.size(own, own.models[0])


def test_the_report_names_jobs_hours_and_disk(paper):
    lines = list(plan.report(paper, io.StringIO(SUMMARY)))
    assert lines[0] == "3 jobs: 1 figure, 1 icl, 1 saliency"
    assert any(line.startswith("| gpt2-xl | saliency | 1 | 4360 | ") for line in lines)
    assert any(line.startswith("disk space, at most: 6.2 GB of downloads in downloads (6.2 GB for models)") for line in lines)


def test_configs_are_laid_over_each_other_as_snakemake_does_it(tmp_path):
    (tmp_path / "below.yaml").write_text("data: {source: builtin, seed: 3}\nseeds: [1, 2]\n")
    (tmp_path / "above.yaml").write_text("data: {seed: 4}\nseeds: [7]\n")
    both = parse.load(tmp_path / "below.yaml", tmp_path / "above.yaml")
    assert (both.data.source, both.data.seed, both.seeds) == ("builtin", 4, [7])

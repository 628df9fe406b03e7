import io
import shutil
from pathlib import PurePosixPath

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig, MistralConfig

from icl_lens.config import model_sizes, parse, plan, prediction
from icl_lens.errors import InputError
from icl_lens.network import memory

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


def test_a_job_that_only_merges_shards_is_not_a_job_of_the_study():
    shards = "".join(
        f"r/studies/gpt2-xl/sst2/fresh-1shot/shards/saliency.{i}-of-2.parquet\t-\tsaliency_shard\t-\tmissing\tupdate pending\n"
        for i in (1, 2)
    )
    counts, studies = plan.jobs(io.StringIO(SUMMARY + shards))
    assert counts == {"figure": 1, "saliency": 1, "saliency_shard": 2, "icl": 1}
    assert [path.name for path in studies] == ["icl.parquet", "saliency.1-of-2.parquet", "saliency.2-of-2.parquet"]
    finished = shards.replace("update pending", "no update")
    assert [path.name for path in plan.jobs(io.StringIO(SUMMARY + finished))[1]] == ["icl.parquet"]


def test_what_is_no_summary_is_refused():
    with pytest.raises(InputError, match="standard input is not a Snakemake summary"):
        plan.jobs(io.StringIO("nothing\n"))
    with pytest.raises(InputError, match="standard input, line 2: a row has 1 of the 3 fields of a Snakemake summary"):
        plan.jobs(io.StringIO("output_file\trule\tplan\na\n"))


def test_an_estimate_counts_tokens_by_layer(paper):
    card = prediction.card("h100-80gb")
    body = 1_557_611_200 - 1600 * 50257
    share = prediction.PADDING * (48 - 5 / 6) / 48  # of the last layer, most positions need only keys and values

    def linear(task, prompt_set, study):
        predicted = plan.estimate(
            paper, PurePosixPath(f"r/studies/gpt2-xl/{task}/{prompt_set}/{study}.parquet"), card
        ).predicted
        return predicted.prompts, predicted.operations.linear / (2 * body * share)

    # Forward and backward.
    assert linear("sst2", "fresh-1shot", "saliency") == (5 * 872, pytest.approx(2 * 5 * 872 * 71))
    # Each seed reads its demonstrations once, with the beginning of the query's template.
    queries, demonstrations = 5 * 500 * 11, 2 * (131 - 14) + 3
    prompts, plain = linear("trec", "shared-2shot", "icl")
    assert (prompts, plain) == (5 * 500, pytest.approx(queries + 5 * demonstrations))
    # With 48 layers there are 4 layer counts (1, 3, 5, 7) and 2 sides for label, newline, template and 5 draws of random
    # tokens. A run starts at its first isolated layer (last k) or after the isolated layers (first k, except the largest). The
    # random tokens have 10 orders, each with its own demonstrations.
    layers = (1 + 3 + 5 + 7) + 48 + (48 - 5) + (48 - 3) + (48 - 1)
    fixed, random = 3 * (queries + 5 * demonstrations), 5 * (queries + 5 * 10 * demonstrations)
    _, isolation = linear("trec", "shared-2shot", "isolation")
    assert isolation == pytest.approx(plain + layers / 48 * (fixed + random))


@pytest.mark.parametrize(
    ("hub", "shape"),
    [
        ("openai-community/gpt2-xl", GPT2Config(n_embd=1600, n_layer=48, n_head=25)),
        ("EleutherAI/gpt-j-6b", GPTJConfig()),
        (
            "huggyllama/llama-30b",
            LlamaConfig(hidden_size=6656, intermediate_size=17920, num_hidden_layers=60, num_attention_heads=52),
        ),
        ("meta-llama/Llama-2-7b-hf", LlamaConfig()),
        (
            "meta-llama/Llama-2-13b-hf",
            LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40),
        ),
        (
            "meta-llama/Llama-2-70b-hf",
            LlamaConfig(
                hidden_size=8192,
                intermediate_size=28672,
                num_hidden_layers=80,
                num_attention_heads=64,
                num_key_value_heads=8,
            ),
        ),
        ("mistralai/Mistral-7B-Instruct-v0.1", MistralConfig()),
        (
            "meta-llama/Meta-Llama-3-8B",
            LlamaConfig(
                vocab_size=128256,
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
            ),
        ),
    ],
)
def test_the_sizes_are_those_of_the_architectures(hub, shape):
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(shape)
    size, sizes = model_sizes.SIZES[hub], memory.sizes(network)
    assert (size.parameters, size.layers) == (sum(p.numel() for p in network.parameters()), shape.num_hidden_layers)
    assert (size.width, size.vocabulary, size.heads, size.head_width, size.outputs) == (
        sizes.width,
        sizes.vocabulary,
        sizes.heads,
        sizes.head_width,
        sizes.outputs,
    )
    assert size.key_heads * size.head_width == sizes.key_width
    assert size.tied == (network.get_input_embeddings().weight is network.get_output_embeddings().weight)


def test_a_model_that_is_here_is_measured_and_takes_no_download(checkpoint):
    from icl_lens.models import loading

    own = parse.parse({"models": [{"name": "own", "path": str(checkpoint)}]})
    parameters = sum(p.numel() for p in loading.load(checkpoint).network.parameters())
    shape = loading.load(checkpoint).network.config
    # The file stores tied weights once.
    assert model_sizes.size(own, own.models[0]) == model_sizes.Size(
        parameters,
        layers=3,
        download=0,
        width=shape.n_embd,
        vocabulary=shape.vocab_size,
        heads=shape.n_head,
        key_heads=shape.n_head,
        head_width=shape.n_embd // shape.n_head,
        feed_forward=4 * shape.n_embd,
        tied=True,
    )


@pytest.mark.parametrize("content", ["{}", "[", "[]", "\udcff", 100_000 * "["])
def test_a_model_with_a_corrupted_configuration_is_told(checkpoint, tmp_path, content):
    folder = shutil.copytree(checkpoint, tmp_path / "m")
    (folder / "config.json").write_text(content, errors="surrogateescape")
    config = parse.parse({"models": [{"name": "m", "path": str(folder)}]})
    with pytest.raises(InputError, match=r"model m: .* is not a complete checkpoint; fetch or copy it again"):
        model_sizes.size(config, config.models[0])


def test_a_model_of_unknown_size_is_told():
    own = parse.parse({"models": [{"name": "own", "hub": "someone/something"}]})
    with pytest.raises(InputError, match="model own: the size is unknown until the model is fetched"):
        model_sizes.size(own, own.models[0])


def test_the_report_names_jobs_hours_and_disk(paper):
    lines = list(plan.report(paper, io.StringIO(SUMMARY)))
    assert lines[0] == "3 jobs: 1 figure, 1 icl, 1 saliency"
    assert any(line.startswith("| gpt2-xl | saliency | 1 | 4360 | ") for line in lines)
    assert any(line.startswith("GPU hours: ") and line.endswith(" with 8") for line in lines)
    assert any(line.startswith("disk space, at most: 6.2 GB of downloads in downloads (6.2 GB for models)") for line in lines)


def test_configs_are_laid_over_each_other_as_snakemake_does_it(tmp_path):
    (tmp_path / "below.yaml").write_text("data: {source: builtin, seed: 3}\nseeds: [1, 2]\n")
    (tmp_path / "above.yaml").write_text("data: {seed: 4}\nseeds: [7]\n")
    both = parse.load(tmp_path / "below.yaml", tmp_path / "above.yaml")
    assert (both.data.source, both.data.seed, both.seeds) == ("builtin", 4, [7])

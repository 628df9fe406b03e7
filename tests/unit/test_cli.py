"""Tests of the command line with unusable input: a one-line error, no traceback and no partially written files."""

import contextlib
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from icl_lens.artifacts import code, hashes, parquet
from icl_lens.cli.commands import main
from icl_lens.network import precision
from icl_lens.prompts import protocol
from icl_lens.report import page
from icl_lens.results import audit
from icl_lens.studies import plugins, registry
from tests import artifacts

from ..conftest import byte_level
from ..families import tiny
from ..prompts_table import prompts_table
from ..reduced_products import emulated

BUILTIN = {"source": "builtin"}

OWN_STUDIES = registry.studies().values()


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "results" / "prompts" / "sst2" / "fresh-1shot.parquet"
    about = artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43], corpus=BUILTIN)
    artifacts.write(path, prompts_table(count=6), about)
    return path


def test_a_study_writes_its_table_with_keys_and_provenance(checkpoint, prompts, tmp_path, capsys):
    # Isolation: label words and four draws of random tokens, in the first and in the last layers.
    rows_of = {"saliency": 6 * 3, "icl": 6, "isolation": 6 * (1 + 4) * 2, "deep_attention": 6 * 3 * 2}
    for study, rows in rows_of.items():
        out = tmp_path / "results" / "studies" / "own" / "sst2" / "fresh-1shot" / f"{study}.parquet"
        arguments = [
            study.replace("_", "-"),
            "--model",
            checkpoint,
            "--prompts",
            prompts,
            "--out",
            out,
            "--name",
            "own",
            "--device",
            "cpu",
        ]
        arguments += ["--settings", "{draws: 4}"] if study == "isolation" else []
        assert main([str(a) for a in arguments]) == 0
        table, about = artifacts.read(out, study)
        assert len(table) == rows
        assert set(table["model"]) == {"own"}
        assert sorted(set(table["prompt_id"])) == list(range(100, 106))
        assert about["inputs"] == {"prompts/sst2/fresh-1shot.parquet": hashes.file_hash(prompts)}
        assert about["seeds"] == [42, 43]
        assert about["corpus"] == BUILTIN
        assert about["observed"]["untrained"] is True
        assert about["observed"]["prompts"] == 6
        assert str(tmp_path) not in str(about)
        first = out.read_bytes()
        assert main([str(a) for a in arguments]) == 0
        assert out.read_bytes() == first, "the same run gives the same bytes"
    assert main(["audit", str(tmp_path / "results")]) == 0
    prompts.write_bytes(prompts.read_bytes() + b" ")
    assert main(["audit", str(tmp_path / "results")]) == 1
    told = capsys.readouterr().out
    assert "prompts/sst2/fresh-1shot.parquet has changed since this was made" in told
    assert "is not a valid Parquet file" in told


def test_error_diagnosis_reads_two_prompts_tables_and_records_both(checkpoint, prompts, tmp_path, capsys):
    out = tmp_path / "results" / "studies" / "own" / "sst2" / "fresh-1shot" / "diagnosis.parquet"
    pooled = prompts.with_name("pooled-1shot.parquet")
    arguments = ["diagnosis", "--model", checkpoint, "--prompts", prompts, "--settings", "{directions: 2, sweep: [1]}"]
    arguments = [str(a) for a in [*arguments, "--out", out, "--pooled", pooled]]
    assert main(arguments) == 1
    assert "pooled-1shot.parquet does not exist" in capsys.readouterr().err
    assert not out.exists()
    table = prompts_table(count=8)
    padding = " fine" * 5000
    table.at[7, "text"] = table.at[7, "text"].replace("\nSentiment:", padding + "\nSentiment:", 1)
    table.at[7, "label_spans"] = [[s + len(padding), e + len(padding)] for s, e in table.at[7, "label_spans"]]
    artifacts.write(
        pooled,
        table,
        artifacts.describe("prompts", "icl_lens.prompts.protocol", inputs={}, settings={}, seeds=[42, 43]),
    )
    assert main(arguments) == 0
    rows, about = artifacts.read(out, "diagnosis")
    assert len(rows) == 2 * 2 * 2  # 2 seeds, 2 sources of the keys and 2 values of M; one pair of classes
    assert sorted(set(rows["seed"])) == [42, 43]
    both = {f"prompts/sst2/{path.name}": hashes.file_hash(path) for path in (prompts, pooled)}
    assert about["inputs"] == both
    assert (about["observed"]["prompts"], about["observed"]["left_out"]) == (6, 1)
    assert about["settings"]["directions"] == 2


def test_a_chat_and_a_beginning_of_sequence_token_are_asked_for_and_recorded(prompts, tmp_path, capsys):
    tokenizer = byte_level(bos_token="<s>", eos_token="</s>")
    folder = tmp_path / "chatting"
    tiny("gpt2", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    out = tmp_path / "icl.parquet"

    def run(*more):
        return main([*(str(a) for a in ("icl", "--model", folder, "--prompts", prompts, "--out", out)), *more])

    assert run("--chat") == 1
    assert "icl: the tokenizer has no chat template" in capsys.readouterr().err
    assert not out.exists()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    tokenizer.save_pretrained(folder)
    answers = {}
    for name, more in {"plain": [], "bos": ["--bos", "yes"], "chat": ["--chat"], "no bos": ["--bos", "no"]}.items():
        assert run(*more) == 0
        table, about = artifacts.read(out, "icl")
        assert (about["settings"]["bos"], about["settings"]["chat"]) == (
            {"bos": True, "no bos": False}.get(name, "auto"),
            name == "chat",
        )
        answers[name] = [list(row) for row in table["class_log_probs"]]
    assert answers["plain"] == answers["no bos"]
    assert len({str(rows) for rows in answers.values()}) == 3
    tokenizer.chat_template += "{% if add_generation_prompt %}assistant\n{% endif %}"
    tokenizer.save_pretrained(folder)
    assert run("--chat-turns") == 0
    table, about = artifacts.read(out, "icl")
    assert about["settings"]["chat"] == "turns"
    assert [list(row) for row in table["class_log_probs"]] != answers["chat"]
    assert run("--chat", "--chat-turns") == 1
    assert "icl: --chat and --chat-turns cannot be combined; remove one of them" in capsys.readouterr().err


def test_fast_products_are_asked_for_used_where_the_device_has_them_and_recorded(checkpoint, prompts, tmp_path, monkeypatch):
    before = torch.get_float32_matmul_precision()
    answers = {}
    for name, matmul in (("plain", "exact"), ("fast", "fast"), ("exact", "exact")):
        out = tmp_path / f"{name}.parquet"
        options = ("icl", "--model", checkpoint, "--prompts", prompts, "--out", out, "--matmul", matmul, "--device", "cpu")
        with contextlib.nullcontext() if name == "plain" else emulated():
            # A user's code may have changed this setting before. Exact products must be exact regardless.
            torch.set_float32_matmul_precision("medium")
            try:
                assert main([str(option) for option in options]) == 0
                assert torch.get_float32_matmul_precision() == "medium"
            finally:
                torch.set_float32_matmul_precision(before)
        table, about = artifacts.read(out, "icl")
        assert (about["matmul"], about["products"]) == (matmul, "bfloat16" if name == "fast" else "float32")
        answers[name] = np.concatenate(table["class_log_probs"].to_numpy())
    assert np.array_equal(answers["exact"], answers["plain"])
    assert 0 < np.abs(answers["fast"] - answers["exact"]).max() < 0.1


def test_a_product_that_cannot_be_exact_is_refused_in_one_sentence(checkpoint, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "measured_format", lambda device: "bfloat16")
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    out = tmp_path / "icl.parquet"
    options = ("icl", "--model", checkpoint, "--prompts", prompts, "--out", out, "--device", "cpu")
    assert main([str(option) for option in options]) == 1
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence == (
        "icl-lens icl: matmul is exact, but cpu multiplies float32 matrices in bfloat16 even when torch is set to full "
        "precision; remove ONEDNN_DEFAULT_FPMATH_MODE=BF16 from the environment, or set matmul to fast"
    )
    assert not out.exists()


def test_what_a_killed_run_was_writing_is_no_artifact(prompts, tmp_path):
    (prompts.parent / ".fresh-1shot.parquet.x1.parquet").write_bytes(b"half")
    assert main(["audit", str(tmp_path / "results")]) == 0


def test_prompts_too_long_for_the_model_are_left_out_counted_and_recorded(checkpoint, tmp_path, caplog):
    table = prompts_table(count=4)
    padding = " fine" * 5000
    table.at[1, "text"] = table.at[1, "text"].replace("\nSentiment:", padding + "\nSentiment:", 1)
    table.at[1, "label_spans"] = [[s + len(padding), e + len(padding)] for s, e in table.at[1, "label_spans"]]
    table.to_parquet(tmp_path / "own.parquet")
    out = tmp_path / "icl.parquet"
    with caplog.at_level("WARNING"):
        assert main(["icl", "--model", str(checkpoint), "--prompts", str(tmp_path / "own.parquet"), "--out", str(out)]) == 0
    answers, about = artifacts.read(out, "icl")
    assert answers["prompt_id"].tolist() == [100, 102, 103]
    assert (about["observed"]["left_out"], about["observed"]["prompts"]) == (1, 3)
    assert "1 of 4 prompts are longer than the context" in caplog.text


def test_prompts_made_elsewhere_can_be_studied(checkpoint, tmp_path):
    own = tmp_path / "own.parquet"
    prompts_table(count=3).assign(note="mine").to_parquet(own)
    assert main(["icl", "--model", str(checkpoint), "--prompts", str(own), "--out", str(tmp_path / "icl.parquet")]) == 0
    assert artifacts.read(tmp_path / "icl.parquet", "icl")[1]["corpus"] == {"source": "elsewhere"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["saliency", "--model", "{tmp}/none", "--prompts", "{prompts}"], "icl-lens saliency: --model: model folder"),
        (["saliency", "--model", "{model}", "--prompts", "{tmp}/none.parquet"], "none.parquet does not exist"),
        (["saliency", "--model", "{model}", "--prompts", "{cut}"], "is not a valid Parquet file (truncated or corrupted)"),
        (["icl", "--model", "{model}", "--prompts", "{corpus}"], "is not a prompts table: missing column"),
        (
            ["isolation", "--model", "{model}", "--prompts", "{prompts}", "--settings", "{{layer: 2}}"],
            "--settings: unknown key 'studies.isolation.layer' (= 2); did you mean 'layers'?",
        ),
        (
            ["isolation", "--model", "{model}", "--prompts", "{prompts}", "--settings", "{{layers: [9]}}"],
            "studies.isolation.layers contains 9, but the model has only 3 layers",
        ),
        (["corpora", "--task", "sst2"], "give one of --seed (the built-in texts), --train and --test (files), --fetched"),
        (["corpora", "--task", "sst2", "--train", "{tmp}/a", "--test", "{tmp}/b"], "a cannot be read"),
        (
            ["prompts", "--task", "sst2", "--corpus", "{corpus}", "--set", "fresh-9shot", "--seeds", "1", "--queries", "3"],
            "9 demonstrations per class are required, but the training split has only 1 texts of class 0 (Negative)",
        ),
        (
            ["prompts", "--task", "sst2", "--corpus", "{corpus}", "--set", "few", "--seeds", "1", "--queries", "3"],
            "'few' is not a prompt set; use a name such as fresh-1shot",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence(checkpoint, prompts, tmp_path, capsys, arguments, sentence):
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(prompts.read_bytes()[:-100])
    corpus = tmp_path / "corpus.parquet"
    pd.DataFrame({"split": ["train", "train", "test"], "index": [0, 1, 0], "text": list("abc"), "label": [0, 1, 0]}).to_parquet(
        corpus
    )
    places = {"tmp": tmp_path, "prompts": prompts, "model": checkpoint, "cut": cut, "corpus": corpus}
    out = tmp_path / "out" / "x.parquet"
    assert main([*(a.format(**places) for a in arguments), "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert told.startswith(f"icl-lens {arguments[0]}: ")
    assert len(told.strip().splitlines()) == 1
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_a_place_that_cannot_be_written_is_told_before_the_work(checkpoint, prompts, tmp_path, capsys):
    (tmp_path / "a file").write_text("")
    under_a_file = tmp_path / "a file" / "x.parquet"
    for out, sentence in ((tmp_path, "is a folder; specify a file"), (under_a_file, "a file is a file; use another folder")):
        assert main(["icl", "--model", str(checkpoint), "--prompts", str(prompts), "--out", str(out)]) == 1
        told = capsys.readouterr().err
        assert sentence in told
        assert len(told.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--seeds", "-1", "Invalid value for '--seeds': Input should be greater than or equal to 0"),
        ("--seeds", str(2**32), "Invalid value for '--seeds': Input should be less than or equal to 4294967295"),
        ("--queries", "0", "Invalid value for '--queries': Input should be greater than or equal to 1"),
    ],
)
def test_an_option_out_of_range_is_told(option, value, sentence, capsys):
    options = {"--task": "sst2", "--corpus": "x", "--set": "fresh-1shot", "--seeds": "1", "--queries": "1", "--out": "y"}
    assert main(["prompts", *(part for pair in (options | {option: value}).items() for part in pair)]) == 2
    assert capsys.readouterr().err == f"icl-lens prompts: {sentence} (see `icl-lens prompts --help`)\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "icl-lens: Missing command."),
        (["salency"], "icl-lens: No such command 'salency'. Did you mean 'saliency'"),
        (["prompts", "--sets", "x"], "icl-lens prompts: No such option: --sets (Possible options: --seeds, --set"),
        (["prompts"], "icl-lens prompts: Missing option '--task'."),
        (["prompts", "--task", "--corpus", "x"], "icl-lens prompts: Option '--task' requires an argument."),
        (
            ["prompts", "--seeds", *"--task sst2 --corpus x --set s --queries 1 --out y".split()],
            "icl-lens prompts: Missing option '--seeds'.",
        ),
        (["representation-prompts"], "icl-lens representation-prompts: Missing option '--task'. Choose from: lines, reading"),
        (["representation-prompts", "--task", "[x]"], "Invalid value for '--task': '[x]' is not one of 'lines', 'reading'."),
        (["audit", "a", "[b]"], "icl-lens audit: Got unexpected extra argument(s) ([b])"),
    ],
)
def test_invalid_arguments_give_one_line_that_names_the_option(arguments, sentence, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--seeds", "1", "2", "--queries", "3"], [1, 2]),
        (["--queries", "3", "--seeds", "1", "2"], [1, 2]),
        (["--seeds", "1", "--queries", "3", "--seeds", "2"], [1, 2]),
        (["--seeds=1", "--queries=3"], [1]),
    ],
)
def test_an_option_takes_several_values_or_is_repeated(arguments, values, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(protocol, "write", lambda task, corpus, name, seeds, queries, *_: seen.append((seeds, queries)))
    out = str(tmp_path / "prompts.parquet")
    assert main(["prompts", "--task", "sst2", "--corpus", "x", "--set", "fresh-1shot", "--out", out, *arguments]) == 0
    assert seen == [(values, 3)]


def test_an_option_may_have_no_value_where_none_is_needed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(page, "write", lambda *values: seen.append(values))
    options = ["--results", "r", "--items", "figure_1", "--claims", "a", "b", "--walks", "--page", "p", "--missing"]
    assert main(["report", *options, "--out", str(tmp_path / "index.html")]) == 0
    assert [str(path) for path in seen[0][2]] == ["a", "b"]
    assert seen[0][5:] == ([], {}, [], {})


def test_a_user_interrupt_is_one_line(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "audit", interrupt)
    assert main(["audit"]) == 130
    assert capsys.readouterr().err == "icl-lens audit: interrupted\n"


def test_an_empty_results_folder_is_told(tmp_path, capsys):
    assert main(["audit", str(tmp_path)]) == 1
    assert "contains no artifacts" in capsys.readouterr().err
    # Also run the command in a separate process, to check the exit status and that there is no traceback.
    command = [sys.executable, "-m", "icl_lens", "audit", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    advice = "run snakemake first, or specify the results folder of the config"
    assert done.stderr == f"icl-lens audit: {tmp_path / 'none'} is not a folder; {advice}\n"


def test_help_does_not_wait_for_torch():
    script = """
import sys
from icl_lens.cli.commands import main
main(["--help"])
print({"torch", "transformers", "pandas"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=plain())
    commands = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert {study.command for study in OWN_STUDIES} < set(commands)
    assert all(
        f"─ {panel} ─" in done.stdout
        for panel in ("Data", "Studies", "Tools for your own texts", "Training", "Results and config")
    )
    assert max(len(line) for line in done.stdout.splitlines()) == 80, "the width if there is no terminal"
    assert done.stdout.endswith("set()\n")


def plain(**more: str) -> dict[str, str]:
    """Return an environment without the variables that force colors or set the width."""
    unset = ("COLUMNS", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH")
    return {key: value for key, value in os.environ.items() if key not in unset} | more


def test_help_has_colors_unless_no_color_is_set():
    for environment, colored in (({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)):
        command = [sys.executable, "-m", "icl_lens", "audit", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain(**environment))
        assert bool(re.search(r"\x1b\[[\d;]*3\d", done.stdout)) is colored


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"icl-lens \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("icl-lens sali", ["saliency"]),
        ("icl-lens saliency --mat", ["--matmul"]),
        ("icl-lens saliency --device c", ["cpu", "cuda"]),
        ("icl-lens prompts --seeds 1 2 --que", ["--queries"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(words, completions):
    environment = plain(COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1), _ICL_LENS_COMPLETE="complete_bash")
    done = subprocess.run([sys.executable, "-m", "icl_lens"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == completions


STUDY_PY = """
from icl_lens.artifacts.schema import INTEGER, study_schema
from icl_lens.studies.cost import Cost
from icl_lens.studies.study import Further, Study

STUDY = Study(
    package=__package__,
    help="how many [tokens] 100 % of the prompts have",
    schema=study_schema(__package__.rpartition(".")[2], {"tokens": INTEGER}),
    cost=Cost(passes=1),
    further=FURTHER,
)
"""

COMPUTE_PY = """
import pandas as pd

def compute(model, prompts, batch_tokens, progress):
    return pd.DataFrame({"prompt_id": [p.prompt_id for p in prompts], "tokens": [len(p.ids) for p in prompts]})
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that creates a study's folder with a given name. The fixture undoes the command's changes to this process."""
    monkeypatch.setattr(plugins, "FOLDERS", {})
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setattr(code, "ROOTS", dict(code.ROOTS))
    known = set(sys.modules)

    def made(name: str, further: str = "()"):
        folder = tmp_path / "own" / name
        folder.mkdir(parents=True)
        (folder / "study.py").write_text(STUDY_PY.replace("FURTHER", further))
        (folder / "compute.py").write_text(COMPUTE_PY)
        return folder

    yield made
    for name in set(sys.modules) - known:
        if name.startswith(f"{plugins.__name__}."):
            del sys.modules[name]


def test_a_plugin_adds_a_command(plugin, checkpoint, prompts, tmp_path, capsys):
    out = tmp_path / "results" / "studies" / "m" / "sst2" / "fresh-1shot" / "prompt_lengths.parquet"
    given = ["--plugin", str(plugin("prompt_lengths"))]
    command = ["prompt-lengths", "--model", str(checkpoint), "--prompts", str(prompts), "--out", str(out), "--device", "cpu"]
    command += ["--name", "m"]
    assert main(command) == 2
    assert "No such command 'prompt-lengths'." in capsys.readouterr().err
    assert main([*given, *command, "--help"]) == 0
    assert "How many [tokens] 100 % of the prompts have." in capsys.readouterr().out
    assert main([*given, *command]) == 0
    table, _ = parquet.read(out, registry.study("prompt_lengths").schema)
    assert (table["tokens"] > 0).all()
    assert main([*given, "audit", str(tmp_path / "results")]) == 0


@pytest.mark.parametrize(
    ("name", "further", "sentence"),
    [
        ("saliency", "()", "plugins: {folder}: the name 'saliency' is taken by a study of icl-lens; rename the folder"),
        (
            "anchors",
            "()",
            "plugins: {folder}: the name 'anchors' is taken by a group of figures of icl-lens; rename the folder",
        ),
        ("audit", "()", "plugins: the name 'audit' is taken by a command of icl-lens; rename the folder of the study"),
        (
            "own_lengths",
            "(Further('out', 'more prompts', 'shared-1shot'),)",
            "study own_lengths: further: the command already has an option --out; rename it",
        ),
    ],
)
def test_a_name_that_is_taken_is_told(plugin, name, further, sentence, capsys):
    folder = plugin(name, further)
    assert main(["--plugin", str(folder), "config"]) == 1
    assert capsys.readouterr().err == f"icl-lens: {sentence.format(folder=folder)}\n"


def test_a_folder_that_holds_no_study_is_told(plugin, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    for name, fault in (("none", "is not a folder"), ("empty", "contains no study.py")):
        assert main(["--plugin", str(plugin("lengths" + name)), "--plugin", str(tmp_path / name), "config"]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"icl-lens: plugins: {tmp_path / name} {fault}; ")
        assert len(told.strip().splitlines()) == 1
    # Also test a separate process that reads the folder from the environment variable.
    environment = {**os.environ, plugins.VARIABLE: str(tmp_path / "none")}
    command = [sys.executable, "-m", "icl_lens", "audit"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr == f"icl-lens: plugins: {tmp_path / 'none'} is not a folder; give a folder that contains a study.py\n"


def test_plugins_are_given_before_or_after_the_command(plugin, capsys):
    first, second = (str(plugin(name)) for name in ("lengths", "other_lengths"))
    assert main(["--plugin", first, "lengths", "--help", f"--plugin={second}"]) == 0
    assert list(plugins.FOLDERS) == ["lengths", "other_lengths"]
    capsys.readouterr()
    assert main(["config", "--plugin"]) == 1
    assert capsys.readouterr().err == "icl-lens: --plugin has no value; specify the folder of a study\n"

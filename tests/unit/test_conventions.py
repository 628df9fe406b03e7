"""Tests of what all commands share: exit status, log level, colours, completion, help, and errors that name the option."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest
import typer

from icl_lens.cli import commands, options
from icl_lens.cli.commands import EXIT_STATUS, main
from icl_lens.results import audit

from ..conftest import REPOSITORY

COLOUR = re.compile(r"\x1b\[[\d;]*[349]\d")  # a foreground, background or bright colour


def all_commands():
    return typer.main.get_command(commands._app([], [])).commands


def environment(**more):
    """Return an environment without the variables that force or forbid colours or set the width of the help."""
    unset = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH")
    return {name: value for name, value in os.environ.items() if name not in unset} | more


def run(*arguments, **more):
    command = [sys.executable, "-m", "icl_lens", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(**more))


def on_a_terminal(*arguments, **more):
    """Return what a command writes to a terminal."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, *arguments], stdout=child, stderr=child, env=environment(**more)):
        os.close(child)
        output = b""
        try:
            while block := os.read(parent, 65536):
                output += block
        except OSError:  # the terminal is closed when the command ends
            pass
    os.close(parent)
    return output.decode()


def test_the_exit_status_is_the_documented_one(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    found = {0: main(["config"]), 1: main(["audit", str(tmp_path)]), 2: main(["audit", "--none"])}
    monkeypatch.setattr(audit, "audit", interrupt)
    found[130] = main(["audit"])
    assert {status: status for status in EXIT_STATUS} == found
    guide = (REPOSITORY / "docs/commands.md").read_text()
    assert dict(re.findall(r"^\| (\d+) \| (.*) \|$", guide, re.MULTILINE)) == {str(k): v for k, v in EXIT_STATUS.items()}


def test_an_interrupt_while_the_libraries_are_loaded_is_one_line(tmp_path):
    script = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "icl_lens.studies.registry":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from icl_lens.cli.commands import main
sys.exit(main(["config"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "icl-lens: interrupted\n")


@pytest.mark.parametrize("arguments", [("-v", "audit"), ("audit", "--verbose")])
def test_a_verbose_command_writes_versions_options_and_time(arguments, tmp_path):
    done = run(*arguments, tmp_path)
    lines = done.stderr.splitlines()
    details = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} icl_lens", line)]
    assert len(details) == 3
    assert re.search(r"icl-lens \d+\.\d+\.\d+, Python 3\.\d+\.\d+, .*torch \d", details[0])
    assert f"audit: results = {tmp_path}, repair = False" in details[1]
    assert re.search(r"audit took \d+\.\d s and at most [\d.]+ [MG]B of memory", details[2])
    assert [line for line in lines if line not in details] == run("audit", tmp_path).stderr.splitlines()


def test_the_cause_of_an_error_is_a_detail(tmp_path, caplog):
    arguments = ["corpora", "--task", "sst2", "--train", "none.tsv", "--test", "none", "--out", str(tmp_path / "o.parquet")]
    with caplog.at_level("INFO"):
        assert main(arguments) == 1
    assert not caplog.records
    with caplog.at_level("DEBUG"):
        assert main(arguments) == 1
    assert "the error was caused by FileNotFoundError(" in caplog.text


def test_a_terminal_gets_colours_unless_no_color_is_set_and_a_pipe_gets_none():
    arguments = ("-m", "icl_lens", "audit", "--help")
    assert COLOUR.search(on_a_terminal(*arguments, TERM="xterm-256color"))
    assert not COLOUR.search(on_a_terminal(*arguments, TERM="xterm-256color", NO_COLOR="1"))
    for output in (run("audit", "--help").stdout, run("audit", "--none").stderr, run("--help").stdout):
        assert output
        assert "\x1b" not in output


def test_progress_is_a_bar_on_a_terminal_without_colours():
    script = "from icl_lens.progress import progress\nwith progress(4, 'saliency of m') as advance: advance(4)"
    output = on_a_terminal("-c", script, NO_COLOR="1", TERM="xterm-256color")
    assert re.search(r"saliency of m: 100%.* 4/4 \[.*prompt/s\]", output)
    assert not COLOUR.search(output)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_each_shell_is_printed(shell, tmp_path):
    done = run(_ICL_LENS_COMPLETE=f"source_{shell}")
    assert done.returncode == 0
    assert "icl-lens" in done.stdout
    assert "_ICL_LENS_COMPLETE=complete_" in done.stdout
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=done.stdout, text=True, check=False, capture_output=True).returncode == 0
    completed = run(_ICL_LENS_COMPLETE=f"complete_{shell}", **arguments_of(shell)).stdout
    assert "saliency" in completed
    assert "audit" not in completed


def arguments_of(shell):
    """Return the variables in which the shell passes `icl-lens sali` to be completed."""
    if shell == "bash":
        return {"COMP_WORDS": "icl-lens sali", "COMP_CWORD": "1"}
    return {"_TYPER_COMPLETE_ARGS": "icl-lens sali", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}


def test_the_help_of_each_option_is_a_sentence_and_shows_its_default():
    wrong = []
    for name, command in all_commands().items():
        for parameter in command.params:
            text = parameter.help or ""
            if not re.match(r"[A-Z`]|[\w=]+(: |, |\.yaml)|NAME|--?", text) or not text.endswith("."):
                wrong.append(f"{name} {parameter.opts[0]}: {text!r}")
            if parameter.default not in (None, False) and not parameter.show_default:
                wrong.append(f"{name} {parameter.opts[0]}: the default {parameter.default} is hidden")
    assert wrong == []


QUANTITIES = {
    "--queries": "Maximum number of test texts",
    "--auxiliary": "Number of training texts",
    "--attempts": "number of consecutive attempts",
    "--batch-tokens": "Number of tokens",
    "--gpus": "Number of GPUs",
    "--demonstrations": "Number of labelled texts",
    "--prompts": "Number of prompts",
    "--curve-prompts": "Number of prompts",
    "--seed": "seed",
    "--seeds": "seeds",
    "--shuffle-labels": "seed",
    "--untrained": "seed",
}


def test_the_help_of_each_number_says_what_is_counted():
    numbers = {
        parameter.opts[0]: parameter.help
        for command in all_commands().values()
        for parameter in command.params
        if re.search(r"\b(int|float)\b", str(parameter.type_descriptor.annotation))
    }
    assert set(numbers) == set(QUANTITIES)
    assert [option for option, text in numbers.items() if QUANTITIES[option] not in text] == []


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ("icl --model none/of/these --prompts p.parquet --out o.parquet", "--model: model folder none/of/these does not"),
        ("icl --model {model} --prompts none.parquet --out o.parquet", "--prompts: none.parquet does not exist"),
        ("icl --model {model} --prompts {model}/config.json --out o.parquet", "--prompts: {model}/config.json"),
        ("corpora --task sst2 --train none.tsv --test none2.tsv --out o.parquet", "--train: none.tsv cannot be read"),
        (
            "prompts --task sst2 --corpus c.parquet --set fresh-1shot --seeds 1 --queries 1 --out o.parquet",
            "--corpus: c.parquet",
        ),
        ("classify --model {model} --cache none.safetensors texts.txt", "--cache: none.safetensors"),
        ("compress --model {model} --task sst2 --demos none.jsonl --out o", "--demos: none.jsonl"),
        ("plan --config none.yaml", "--config: none.yaml"),
        ("execute --source none.ipynb --parameters {{}} --out o.ipynb", "--source: none.ipynb cannot be read"),
        ("execute --source texts.txt --parameters {{}} --out o.ipynb", "--source: texts.txt is not a notebook"),
        ("execute --source texts.txt --parameters {{ --out o.ipynb", "--parameters is not valid JSON: "),
        ("execute --source texts.txt --parameters 1 --out o.ipynb", "--parameters must be a JSON object"),
        ("report --results r --items figure_3 --nulls x --out o.html", "--nulls must be NAME=FILE, got 'x'"),
        ("report --results r --items figure_3 --missing x --out o.html", "--missing must be ITEM=LOG, got 'x'"),
        ("isolation --model {model} --prompts p --out o --settings x:", "--settings: unknown key 'studies.isolation.x'"),
        ("compress --model {model} --task x --demos texts.txt --out o", "--task: 'x' is unknown; "),
        ("training --corpora c --work w --checkpoints d --facts f --out o --recipe x:", "--recipe: unknown key 'organism.x'"),
        ("classify --model owner/name texts.txt", "give either --cache or --components"),
        ("classify --model owner/name --cache a --components b texts.txt", "give either --cache or --components, not both"),
        ("convert-gguf --gguf none.gguf --out converted.json", "--gguf: "),
        (
            "report --results r --items figure_3 --claims none.yaml --out o.html",
            "--claims: claims file none.yaml cannot be read",
        ),
    ],
)
def test_an_error_names_its_option(arguments, start, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a fine film\n")
    words = [word.format(model=checkpoint) for word in arguments.split()]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"icl-lens {words[0]}: {start.format(model=checkpoint)}")
    assert error.count("\n") == 1


def test_a_path_is_named_as_a_whole_only():
    assert options._mentions("a/b.csv is empty", "a/b.csv")
    assert options._mentions("folder a: not found", "a")
    assert not options._mentions("a/b.csv is empty", "b.csv")
    assert not options._mentions("a/b.csv is empty", "a")
    assert not options._mentions("b.csv.gz is empty", "b.csv")

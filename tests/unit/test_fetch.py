"""Tests of downloads as users run them: the real command in a separate process, with a local Hub server."""

import errno
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from icl_lens.artifacts import hashes
from icl_lens.cli.commands import main
from icl_lens.errors import InputError
from icl_lens.hub import download, fetch, fetched, gguf_conversion
from icl_lens.hub.checkpoints import checkpoint_files
from icl_lens.models import loading
from tests import artifacts

from ..hub_server import Fault, Hub
from ..prompts_table import prompts_table

NAME = "Own/Tiny-GPT2"
FOLDER = "downloads/models/Own--Tiny-GPT2/main"
SETTINGS = ("HF_", "HUGGING", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(scope="module")
def server():
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(server):
    """The Hub server, without repositories and faults."""
    server.forget()
    server.repositories.clear()
    server.names.clear()
    return server


@pytest.fixture
def repository(hub, checkpoint, tmp_path):
    """A typical model repository with a model card and custom code."""
    folder = shutil.copytree(checkpoint, tmp_path / "repository")
    (folder / "README.md").write_text("a card")
    (folder / "modeling_own.py").write_text("raise SystemExit('the code ran')\n")
    (folder / "flax_model.msgpack").write_bytes(b"other weights")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_own.Own"}}))
    hub.add("models", NAME, folder)
    return folder


@pytest.fixture
def environment(hub, tmp_path):
    """The environment of a user without a token or a proxy, with the local server as the Hub."""
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(SETTINGS)}
    ours = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_ETAG_TIMEOUT": "1"}
    return {**kept, **ours, "HF_HUB_DOWNLOAD_TIMEOUT": "1", "PYTHONPATH": str(Path(fetch.__file__).parents[2])}


@pytest.fixture
def icl_lens(environment, tmp_path):
    """A function that runs the command in a separate folder and returns (exit status, standard error)."""

    def run(*arguments, **more):
        command = [sys.executable, "-m", "icl_lens", *map(str, arguments)]
        done = subprocess.run(
            command, env=environment | more, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr

    return run


@pytest.fixture
def fetch_model(icl_lens, tmp_path):
    def run(*arguments, hub=NAME, out=tmp_path / "here" / "fetched.json", **more):
        return icl_lens("fetch-model", "--hub", hub, "--out", out, *arguments, **more)

    return run


def test_one_gguf_file_is_fetched_and_held_to_the_hash_that_the_hub_lists(hub, icl_lens, tmp_path):
    (tmp_path / "repository" / "q").mkdir(parents=True)
    for name in ("README.md", "q/a.gguf", "q/b.gguf"):
        (tmp_path / "repository" / name).write_bytes(b"GGUF" + name.encode())
    commit = hub.add("models", NAME, tmp_path / "repository")
    here = tmp_path / "here"
    fetching = ("fetch-model", "--hub", NAME, "--out", here / "fetched.json", "--gguf")
    assert sentence(icl_lens(*fetching, "c.gguf")).endswith("has no file 'c.gguf'; it contains q/a.gguf, q/b.gguf")
    status, told = icl_lens(*fetching, "q/b.gguf")
    assert status == 0, told
    record = fetched.read(here)
    assert (record.commit, list(record.files)) == (commit, ["q/b.gguf"])
    assert {name for name in names(here) if not name.startswith(".")} == {"q/b.gguf", "fetched.json"}
    # The conversion compares the file with this record. An intact file passes this check and only fails later, because it has
    # no header.
    assert gguf_conversion._origin(here / "q/b.gguf", here)["sha256"] == hashes.file_hash(here / "q/b.gguf")
    with pytest.raises(InputError, match=r"contains no q/a\.gguf fetched from the Hub"):
        gguf_conversion._origin(here / "q/a.gguf", here)


def sentence(result):
    """Return the error at the end of the output of a failed command."""
    status, told = result
    assert status == 1, told
    last = told.strip().splitlines()[-1]
    assert last.startswith("icl-lens fetch-"), told
    return last.split(": ", 1)[1]


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_fetched_without_its_code_and_loads(hub, repository, fetch_model, tmp_path):
    status, told = fetch_model()
    assert status == 0, told
    here = tmp_path / "here"
    commit = hub.repositories["models", NAME].branches["main"]
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    record = json.loads((here / "fetched.json").read_text())
    assert record["files"].keys() == wanted
    assert {name for name in names(here) if not name.startswith(".")} == wanted | {"fetched.json"}
    assert (record["hub"], record["revision"], record["commit"]) == (NAME, "main", commit)
    for name, facts in record["files"].items():
        assert (here / name).read_bytes() == (repository / name).read_bytes()
        assert facts == {"sha256": hashes.file_hash(repository / name), "size": (repository / name).stat().st_size}
    assert "model.safetensors" in told
    assert "HTTP Request" not in told, "addresses may be signed"
    loaded = loading.load(here, device="cpu")
    assert (loaded.name, loaded.facts["hub"], loaded.facts["commit"]) == ("Tiny-GPT2", NAME, commit)


def test_quantised_weights_are_refused_before_they_are_fetched(hub, repository, fetch_model):
    config = json.loads((repository / "config.json").read_text())
    (repository / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq", "bits": 4}}))
    hub.add("models", NAME, repository)
    assert f"{NAME} at main: config.json describes quantised weights (AWQ, 4 bits), which are not" in sentence(fetch_model())
    assert [request.rpartition("/")[2] for request in hub.files_asked_for()] == ["config.json"]


def test_the_same_again_asks_for_no_file_and_gives_the_same_bytes(hub, repository, fetch_model, tmp_path):
    assert fetch_model()[0] == 0
    first = (tmp_path / "here/fetched.json").read_bytes()
    hub.forget()
    (tmp_path / "here/fetched.json").unlink()  # Snakemake does this before it reruns a rule
    assert fetch_model()[0] == 0
    assert hub.requests
    assert hub.files_asked_for() == []
    assert (tmp_path / "here/fetched.json").read_bytes() == first


def test_a_commit_that_is_here_needs_no_network(hub, repository, fetch_model, tmp_path):
    commit = hub.repositories["models", NAME].branches["main"]
    assert fetch_model("--revision", commit)[0] == 0
    first = (tmp_path / "here/fetched.json").read_bytes()
    (tmp_path / "here/fetched.json").unlink()
    hub.forget()
    assert fetch_model("--revision", commit, HF_HUB_OFFLINE="1")[0] == 0
    assert hub.requests == []
    assert (tmp_path / "here/fetched.json").read_bytes() == first
    (tmp_path / "here/config.json").write_text("{}")
    assert "HF_HUB_OFFLINE is set" in sentence(fetch_model("--revision", commit, HF_HUB_OFFLINE="1"))


def test_a_branch_that_moved_is_fetched_anew_and_what_it_dropped_is_gone(hub, repository, fetch_model, tmp_path):
    assert fetch_model("--revision", "main")[0] == 0
    newer = shutil.copytree(repository, tmp_path / "newer")
    weights = load_file(newer / "model.safetensors")
    (newer / "model.safetensors").unlink()
    halves = {"model-1.safetensors": dict(list(weights.items())[::2]), "model-2.safetensors": dict(list(weights.items())[1::2])}
    for name, half in halves.items():
        save_file(half, newer / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {weight: name for name, half in halves.items() for weight in half}}
    (newer / "model.safetensors.index.json").write_text(json.dumps(index))
    commit = hub.add("models", NAME, newer)
    hub.forget()
    assert fetch_model()[0] == 0
    here = tmp_path / "here"
    assert fetched.read(here).commit == commit
    assert {path.name for path in here.glob("*.safetensors")} == set(halves)
    assert not any("tokenizer.json" in request for request in hub.requests), "it is the same in both commits"
    loaded = loading.load(here, device="cpu").network.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())


def test_a_killed_fetch_goes_on_where_it_was(hub, repository, fetch_model, environment, tmp_path):
    whole = (repository / "model.safetensors").stat().st_size
    hub.faults = [Fault("/model.safetensors", "stall")]
    out = tmp_path / "here" / "fetched.json"
    command = [sys.executable, "-m", "icl_lens", "fetch-model", "--hub", NAME, "--out", str(out)]
    with subprocess.Popen(command, env=environment | {"HF_HUB_DOWNLOAD_TIMEOUT": "20"}, stderr=subprocess.DEVNULL) as process:
        assert hub.halfway.wait(10)
        partial = tmp_path / "here/.partial" / hashes.file_hash(repository / "model.safetensors")
        limit = time.monotonic() + 5
        # Killing the process loses its buffer. All data except one buffer is on disk.
        while not (partial.is_file() and partial.stat().st_size > whole // 2 - (1 << 18)) and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    had = partial.stat().st_size
    assert 0 < had <= whole // 2
    assert not out.exists()
    hub.forget()
    assert fetch_model()[0] == 0
    assert hub.sent["model.safetensors"] == whole - had
    assert hub.sent["tokenizer.json"] == 0, "what was whole is not sent again"
    assert (tmp_path / "here/model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
    assert not (tmp_path / "here/.partial").exists()


@pytest.mark.parametrize("what", [500, 429, "truncate", "stall", "corrupt", "no range"])
def test_a_fault_that_passes_is_waited_for(hub, repository, fetch_model, tmp_path, what):
    hub.faults = [Fault("/cdn/", "truncate", 1)] if what == "no range" else []
    hub.faults += [Fault("/cdn/", what, 1)]
    status, told = fetch_model()
    assert status == 0, told
    assert hub.faults[-1].times == 0
    assert (tmp_path / "here/model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
    whole = (repository / "model.safetensors").stat().st_size
    # Only corrupted or unrequested data is sent twice.
    again = {"corrupt": whole, "no range": whole // 2}
    assert hub.sent["model.safetensors"] == whole + again.get(what, 0)


@pytest.mark.parametrize(
    ("part", "what", "told"),
    [
        (
            "/cdn/",
            503,
            "fetching model Own/Tiny-GPT2: the Hub answers with status 503 for model.safetensors (2 times in a row); rerun",
        ),
        (
            "/api/",
            502,
            "fetching model Own/Tiny-GPT2: the Hub answers with status 502 for the list of files (2 times in a row); rerun",
        ),
        (
            "/config.json",
            "corrupt",
            "config.json was downloaded 2 times, and its content never matched the digest on the Hub (",
        ),
        (
            "/api/",
            "stall",
            "timeout while fetching the list of files (2 times in a row); rerun the command",
        ),
        ("/api/", "truncate", "the connection was lost while fetching the list of files (peer closed connection"),
        ("/api/", "no hub", "returns an invalid response for model Own/Tiny-GPT2; check HF_ENDPOINT, and whether"),
        (
            "/api/",
            403,
            "the token has no read access to model Own/Tiny-GPT2; grant it read access, or set HF_TOKEN to another token",
        ),
        ("/cdn/", 404, "the Hub answers with status 404 for model.safetensors of model Own/Tiny-GPT2"),
    ],
)
def test_a_fault_that_stays_is_one_sentence(hub, repository, fetch_model, tmp_path, part, what, told):
    hub.faults = [Fault(part, what)]
    assert told in sentence(fetch_model("--attempts", 2))
    assert not (tmp_path / "here/fetched.json").exists()


def test_what_the_hub_does_not_give_is_told_with_what_to_do(hub, repository, fetch_model):
    for token in ({}, {"HF_TOKEN": "any"}):
        told = sentence(fetch_model(hub="own/absent", **token))
        assert told == (
            "model own/absent does not exist on the Hub, or is private or gated; check the name, or set HF_TOKEN to a token of "
            "an account with access"
        )
    told = sentence(fetch_model("--revision", "v9"))
    assert told == (f"model {NAME} has no revision 'v9'; use a branch, a tag or a full commit hash from {hub.endpoint}/{NAME}")
    assert "the Hub rejects the token" in sentence(fetch_model(HF_TOKEN="expired"))


def test_a_gated_model_needs_a_token_which_only_the_hub_sees(hub, repository, fetch_model):
    hub.repositories["models", NAME].gated = True
    terms = f"model {NAME} is gated; accept its terms at {hub.endpoint}/{NAME} and set HF_TOKEN to a token of that account"
    assert sentence(fetch_model()) == terms
    assert sentence(fetch_model(HF_TOKEN="unknown")) == terms
    hub.forget()
    assert fetch_model(HF_TOKEN="admitted")[0] == 0
    assert hub.tokens == {"127.0.0.1": {"admitted"}, "localhost": {None}}


def test_no_network_and_a_forbidden_network_are_told(repository, fetch_model):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # a port that is in use, but has no listener
        told = sentence(fetch_model("--attempts", 2, HF_ENDPOINT=f"http://127.0.0.1:{unused.getsockname()[1]}"))
    assert told.startswith(f"fetching model {NAME}: 127.0.0.1 cannot be reached (")
    assert told.endswith(") (2 times in a row); check the network connection, and whether it needs a proxy (HTTPS_PROXY)")
    told = sentence(fetch_model("--attempts", 1, HF_ENDPOINT="http://no-such-host.invalid"))
    assert told.startswith(f"fetching model {NAME}: no-such-host.invalid cannot be reached (")
    assert sentence(fetch_model(HF_ENDPOINT="my-hub")) == "HF_ENDPOINT must be a URL (https://...), got 'my-hub'"
    assert sentence(fetch_model(HF_HUB_OFFLINE="1")) == (
        f"model {NAME} cannot be fetched because HF_HUB_OFFLINE is set; unset it, or fetch on a machine with network access "
        "and copy the downloads folder to this one"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"hub": "a/b/c"}, "'a/b/c' is not a valid name of a Hub repository; use owner/name"),
        ({"hub": "../b"}, "is not a valid name of a Hub repository"),
        (
            {"revision": "../../up"},
            "'../../up' is not a valid revision; use a branch, a tag or a full commit hash",
        ),
        ({"out": "here/other.json"}, "must be the path of fetched.json in the download folder, got"),
    ],
)
def test_names_that_nothing_can_have_are_told(arguments, told, tmp_path):
    options = {"hub": NAME, "revision": None, "out": tmp_path / "fetched.json"} | arguments
    with pytest.raises(InputError) as caught:
        fetch.model(**options)
    assert told in str(caught.value)


def test_a_full_disk_is_told_before_the_first_byte(hub, repository, environment, tmp_path):
    code = (
        "import shutil, sys; from collections import namedtuple\n"
        "shutil.disk_usage = lambda path: namedtuple('usage', 'free')(free=50_000_000)\n"
        "from icl_lens.cli.commands import main\n"
        f"sys.exit(main(['fetch-model', '--hub', {NAME!r}, '--out', 'here/fetched.json']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    told = sentence((done.returncode, done.stderr))
    assert told.startswith(
        f"fetching model {NAME} needs 0.10 GB in here, but only 0.05 GB are free; free some space, or use another"
    )
    assert hub.files_asked_for() == []


def test_a_disk_that_is_full_or_forbidden_on_the_way_is_told(tmp_path):
    repository = download.Repository("model", NAME, "main")
    with pytest.raises(InputError) as caught, download.locked(tmp_path, repository):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value).startswith(f"fetching model {NAME}: no space left on the device while writing {tmp_path} (")
    assert str(caught.value).endswith("; free some space, or use another folder, and rerun the command to resume")
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "x"
    with (
        pytest.raises(InputError, match=r"file/x cannot be written because .*file is a file"),
        download.locked(place, repository),
    ):
        pass


def test_a_repository_that_is_no_checkpoint_is_told(hub, repository, fetch_model):
    def without(*patterns):
        for path in [path for pattern in patterns for path in repository.glob(pattern)]:
            path.unlink()
        hub.add("models", NAME, repository)
        return sentence(fetch_model())

    assert f"model {NAME} at main has no supported weights (model.safetensors or" in without("model.safetensors")
    assert "has no tokenizer, such as tokenizer.json; it contains README.md, config.json, flax" in without("tokenizer.json")
    assert "is not a checkpoint: config.json is missing; it contains README.md, flax_model.msgpack" in without("config.json")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../evil.safetensors", "which is not a .safetensors file in its folder; use another revision"),
        ("model-9.safetensors", "lists model-9.safetensors, but the file is missing"),
    ],
)
def test_an_index_that_names_what_it_should_not_is_refused(hub, repository, fetch_model, tmp_path, name, told):
    (repository / "model.safetensors").rename(tmp_path / "evil.safetensors")
    (repository / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"transformer.wte.weight": name}}))
    (tmp_path / "repository.extra.json").write_text(
        json.dumps([{"rfilename": "../evil.safetensors", "size": 1, "blobId": "0" * 40}])
    )
    hub.add("models", NAME, repository)
    assert told in sentence(fetch_model())


@pytest.mark.parametrize("name", ["../x.parquet", "/x.parquet", "a/../../x", "a\\x", ".partial/x", "c:x", "", "a//b", "."])
def test_a_name_that_leaves_the_folder_is_refused(name, tmp_path):
    repository = download.Repository("dataset", "own/data", "main")
    found = download.Listing("0" * 40, {name: download.RemoteFile(1, "0" * 40)})
    with pytest.raises(InputError, match="unsafe file name"):
        download.fetch(repository, found, [name], download.Folder(tmp_path), download.RetryPolicy())


def test_weights_that_lie_in_the_folder_already_are_not_taken_for_the_models(hub, repository, fetch_model, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/other.safetensors").write_bytes(b"mine")
    assert "also contains other.safetensors, which was not fetched; move it" in sentence(fetch_model())
    assert (tmp_path / "here/other.safetensors").read_bytes() == b"mine"


def test_pytorch_files_are_fetched_where_there_is_no_other_and_read_as_tensors_only(
    hub, repository, fetch_model, checkpoint, tmp_path, caplog
):
    (repository / "model.safetensors").unlink()
    weights = load_file(checkpoint / "model.safetensors")
    torch.save(weights, repository / "pytorch_model.bin")
    hub.add("models", NAME, repository)
    assert fetch_model()[0] == 0
    here = tmp_path / "here"
    with caplog.at_level(logging.INFO):
        loaded = loading.load(here, device="cpu")
    assert len([record for record in caplog.records if "tensors only (weights_only)" in record.getMessage()]) == 1
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert here / "pytorch_model.bin" in checkpoint_files(here)
    shutil.copy(checkpoint / "model.safetensors", here)
    assert here / "pytorch_model.bin" not in checkpoint_files(here), "safetensors are preferred"


class Evil:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_holds_code_is_refused_and_its_code_does_not_run(checkpoint, tmp_path, how):
    folder = shutil.copytree(checkpoint, tmp_path / "evil")
    weights = load_file(folder / "model.safetensors") | {"transformer.wpe.weight": Evil(str(tmp_path / "it ran"))}
    (folder / "model.safetensors").unlink()
    if how == "torch":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil(str(tmp_path / "it ran"))}, protocol=2))
    with pytest.raises(InputError, match=r"pytorch_model\.bin contains objects other than tensors") as caught:
        loading.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "it ran").exists()
    pickle.loads(pickle.dumps(Evil(str(tmp_path / "it ran"))))
    assert (tmp_path / "it ran").exists(), "and it would have run"


def test_a_pytorch_file_cut_short_or_of_other_things_is_told(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot be loaded|is damaged"):
        loading.load(folder, device="cpu")
    torch.save(weights | {"epoch": 3}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="is not a dictionary of named tensors"):
        loading.load(folder, device="cpu")


def test_a_fetched_file_that_is_no_longer_what_it_was_is_told_and_fetched_again(hub, repository, fetch_model, tmp_path):
    assert fetch_model()[0] == 0
    here = tmp_path / "here"
    weights = here / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(InputError) as caught:
        loading.load(here, device="cpu")
    assert str(caught.value) == (
        f"{weights} has {len(whole) - 8} bytes, but fetched.json lists {len(whole)}; delete {here}/fetched.json, and rerun "
        "the command that fetched it to fetch this file again"
    )
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing; delete"):
        loading.load(here, device="cpu")
    (here / "fetched.json").unlink()
    hub.forget()
    assert fetch_model()[0] == 0
    assert weights.read_bytes() == whole
    assert set(hub.sent) == {"model.safetensors"}
    (here / "fetched.json").write_text('{"hub": 3}')
    with pytest.raises(InputError, match=r"fetched\.json is corrupted; delete it"):
        loading.load(here, device="cpu")


def test_a_study_takes_a_models_name_on_the_hub_and_fetches_it_once(hub, repository, icl_lens, tmp_path):
    prompts_table(count=2).to_parquet(tmp_path / "prompts.parquet")
    status, told = icl_lens("icl", "--model", NAME, "--prompts", "prompts.parquet", "--out", "icl.parquet")
    assert status == 0, told
    assert f"{NAME}: model.safetensors" in told, "what the other process says is passed on"
    table, about = artifacts.read(tmp_path / "icl.parquet", "icl")
    assert set(table["model"]) == {"Tiny-GPT2"}
    commit = hub.repositories["models", NAME].branches["main"]
    assert (about["model"]["hub"], about["model"]["commit"]) == (NAME, commit)
    # If the study were not offline, the Hub's library would also request other files of this model.
    assert {request.rpartition("/")[2] for request in hub.requests} == {"main", *fetched.read(tmp_path / FOLDER).files}
    hub.forget()
    assert fetch.resolve(NAME, None, tmp_path / "downloads") == tmp_path / FOLDER
    assert hub.requests == [], "what is here is not asked for"


def test_a_models_name_that_is_neither_a_folder_nor_on_the_hub_is_one_sentence(icl_lens):
    status, told = icl_lens("icl", "--model", "own/absent", "--prompts", "prompts.parquet", "--out", "icl.parquet")
    assert status == 1
    assert told == (
        "icl-lens icl: --model: model folder own/absent does not exist, and own/absent cannot be fetched from the Hub: model "
        "own/absent does not exist on the Hub, or is private or gated; check the name, or set HF_TOKEN to a token of an "
        "account with access\n"
    )


def test_every_command_but_those_that_fetch_is_offline(tmp_path):
    code = (
        "import sys; from icl_lens.cli.commands import main; main(['audit', 'none'])\n"
        "assert 'huggingface_hub' not in sys.modules; from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_what_the_hubs_own_library_cached_is_a_folder_like_any_other(checkpoint, tmp_path):
    snapshot, blobs = tmp_path / "models--own--tiny/snapshots/0123", tmp_path / "models--own--tiny/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in checkpoint.iterdir():
        digest = hashes.file_hash(path)
        shutil.copy(path, blobs / digest)
        (snapshot / path.name).symlink_to(Path("../../blobs") / digest)
    loaded = loading.load(snapshot, device="cpu")
    assert loaded.facts["files"] == loading.load(checkpoint, device="cpu").facts["files"]
    assert "commit" not in loaded.facts


def test_a_folder_is_itself_and_has_no_revision(checkpoint, tmp_path):
    assert fetch.resolve(str(checkpoint)) == checkpoint
    with pytest.raises(InputError, match="is a local folder and has no revisions"):
        fetch.resolve(str(checkpoint), "main")
    with pytest.raises(InputError, match="does not exist, and this is not a valid Hub name"):
        fetch.resolve(str(tmp_path / "none"))


def test_each_model_and_data_set_has_a_folder_of_its_own():
    folders = [
        fetch.model_folder("d", "gpt2"),
        fetch.model_folder("d", "owner/gpt2"),
        fetch.model_folder("d", "owner/gpt2", "refs/pr/1"),
        fetch.dataset_folder("d", "owner/gpt2", "refs/pr/1", "sst2"),
    ]
    assert [folder.as_posix() for folder in folders] == [
        "d/models/gpt2/main",
        "d/models/owner--gpt2/main",
        "d/models/owner--gpt2/refs--pr--1",
        "d/datasets/owner--gpt2/refs--pr--1/sst2",
    ]
    for wrong in (("d", "owner--x/y"), ("d", "x", ".."), ("d", "x", "a/../b")):
        with pytest.raises(InputError):
            fetch.model_folder(*wrong)
    with pytest.raises(InputError):
        fetch.dataset_folder("d", "x", None, "..")


def test_another_repository_whose_folder_has_the_same_name_is_told(hub, repository, tmp_path):
    folder = fetch.model_folder(tmp_path, NAME, "a/b")
    folder.mkdir(parents=True)
    record = fetched.Fetched(NAME, "a/b", "0" * 40, {})
    (folder / "fetched.json").write_text(record.text())
    assert fetch.resolve(NAME, "a/b", tmp_path) == folder
    with pytest.raises(InputError, match=r"contains Own/Tiny-GPT2 at a/b, which has the same folder name as .* at a--b"):
        fetch.resolve(NAME, "a--b", tmp_path)


def test_a_renamed_repository_is_found(hub, repository, fetch_model, tmp_path):
    hub.names["tiny"] = NAME
    assert fetch_model(hub="tiny")[0] == 0
    assert fetched.read(tmp_path / "here").hub == "tiny"


def test_names_of_folders_wait_for_neither_torch_nor_the_hub():
    code = "import sys, icl_lens.hub.fetch; print({'torch', 'huggingface_hub', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def data(hub, tmp_path):
    """The repository of a data set with all supported layouts."""
    folder = tmp_path / "data"
    table = pd.DataFrame({"sentence": ["a", "b"], "label": [0, 1]})
    for name in (
        "sst2/train-00000-of-00002.parquet",
        "sst2/train-00001-of-00002.parquet",
        "sst2/train-extra-00000-of-00001.parquet",
        "sst2/validation-00000-of-00001-ab12.parquet",
        "cola/train-00000-of-00002.parquet",
        "data/train-00000-of-00001.parquet",
        "default/test/0000.parquet",
        "twice/train/0000.parquet",
        "twice/train-00000-of-00001.parquet",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table.assign(sentence=name).to_parquet(folder / name)
    (folder / "load.py").write_text("raise SystemExit('the code ran')\n")
    hub.add("datasets", "Own/GLUE", folder)
    hub.add("datasets", "Own/GLUE", folder, branch="refs/convert/parquet")
    return folder


@pytest.fixture
def fetch_dataset(icl_lens, tmp_path):
    def run(*arguments):
        return icl_lens("fetch-dataset", "--hub", "Own/GLUE", "--out", tmp_path / "here" / "fetched.json", *arguments)

    return run


@pytest.mark.parametrize(
    ("config", "splits"),
    [
        (
            "sst2",
            {
                "train": ["sst2/train-00000-of-00002.parquet", "sst2/train-00001-of-00002.parquet"],
                "validation": ["sst2/validation-00000-of-00001-ab12.parquet"],
            },
        ),
        ("default", {"test": ["default/test/0000.parquet"], "train": ["data/train-00000-of-00001.parquet"]}),
    ],
)
def test_the_parquet_files_of_a_data_sets_splits_are_fetched(hub, data, fetch_dataset, tmp_path, config, splits):
    status, told = fetch_dataset("--config", config, "--revision", "refs/convert/parquet", "--splits", *splits)
    assert status == 0, told
    record = fetched.read(tmp_path / "here")
    assert (record.config, record.splits, record.revision) == (config, splits, "refs/convert/parquet")
    assert record.commit == hub.repositories["datasets", "Own/GLUE"].branches["main"]
    files = {name for names in splits.values() for name in names}
    assert {name for name in names(tmp_path / "here") if name.endswith(".parquet")} == files == record.files.keys()
    for name in files:
        assert (tmp_path / "here" / name).read_bytes() == (data / name).read_bytes()


def test_splits_that_are_not_there_whole_and_once_are_told(data, fetch_dataset):
    told = sentence(fetch_dataset("--config", "sst2", "--splits", "train", "test"))
    assert told == (
        "data set Own/GLUE at main has no Parquet files for split 'test' of configuration 'sst2'; it contains cola/train, "
        "data/train, default/test, sst2/train, sst2/train-extra, sst2/validation, twice/train; try the revision "
        "refs/convert/parquet"
    )
    told = sentence(fetch_dataset("--config", "cola", "--splits", "train"))
    assert told == "data set Own/GLUE at main has only 1 of the 2 files of split 'train' of configuration 'cola'"
    told = sentence(fetch_dataset("--config", "twice", "--splits", "train"))
    assert told.startswith("data set Own/GLUE at main has Parquet files in more than one layout for split 'train'")
    assert "not a valid name of a split of a data set" in sentence(fetch_dataset("--splits", "../x"))


def test_the_whole_cli_knows_its_fetch_commands(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "fetch-model" in told
    assert "fetch-dataset" in told

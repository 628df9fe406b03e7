import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icl_lens.cli import preloaded

from ..preloading import script_with

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked from a loaded one on Linux only")

# Commands run this module. It prints the arguments, working directory, environment, input and loaded modules of the command.
ASKED = """
import os, sys
if __name__ == "__main__":
    if sys.argv[1] == "tell":
        os.write(int(os.environ["ICL_LENS_STDERR"]), b"told to the workflow")
        sys.exit(1)
    print(sys.argv[1:], os.getcwd(), os.environ.get("ASKED"), sys.stdin.read(), "loaded" if "marker" in sys.modules else "cold")
    print("to the other stream", file=sys.stderr)
    if sys.argv[1] == "wait":
        open("waiting", "w").close()
        import time
        time.sleep(60)
    if sys.argv[1] == "raise":
        raise ValueError("as it is")
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Provide the folder of a server process that has loaded the module ``marker``."""
    folder = tmp_path_factory.mktemp("p")
    (folder / "asked.py").write_text(ASKED)
    (folder / "marker.py").write_text("")
    script = folder / "preloaded.py"
    script.write_text(script_with(["marker"]))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-P", script, "--serve", folder / "socket"], stdin=subprocess.PIPE, env=environment
    )
    waited = time.monotonic() + 20
    while not (folder / "socket").exists() and time.monotonic() < waited:
        time.sleep(0.05)
    yield folder
    process.stdin.close()
    assert process.wait(20) == 0, "it ends with whoever started it"


def ask(folder: Path, *arguments: str, socket: str = "socket", **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-SP", preloaded.__file__, folder / socket, "asked", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder), "ASKED": "its own"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, **more)


@pytest.mark.parametrize(("socket", "loaded"), [("socket", "loaded"), ("nobody there", "cold")])
def test_a_command_has_its_own_arguments_folder_environment_streams_and_status(served, tmp_path, socket, loaded):
    done = ask(served, "3", "a b", socket=socket, cwd=tmp_path, input="typed")
    assert done.returncode == 3
    assert done.stdout == f"['3', 'a b'] {tmp_path} its own typed {loaded}\n"
    assert done.stderr == "to the other stream\n"


def test_an_error_is_told_as_python_tells_it(served):
    done = ask(served, "raise", input="")
    assert done.returncode == 1
    assert "ValueError: as it is" in done.stderr


@pytest.mark.parametrize("socket", ["socket", "nobody there"])
def test_a_command_reaches_the_standard_error_of_the_workflow(served, socket):
    reader, writer = os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(served), "ICL_LENS_STDERR": str(writer)}
    command = [sys.executable, "-SP", preloaded.__file__, served / socket, "asked", "tell"]
    with open("/dev/full", "w") as log:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writer], timeout=60
        )
    os.close(writer)
    with open(reader) as stream:
        assert stream.read() == "told to the workflow"
    assert done.returncode == 1


def test_a_killed_client_takes_its_command_along_and_a_killed_command_is_told(served, tmp_path):
    def wait_for(path: Path) -> None:
        until = time.monotonic() + 20
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.05)

    def forks() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if Path(os.readlink(entry / "cwd")) == tmp_path:
                        found.append(entry.name)
                except OSError:
                    continue
        return found

    command = [sys.executable, "-SP", preloaded.__file__, served / "socket", "asked", "wait"]
    environment = {**os.environ, "PYTHONPATH": str(served)}
    for killed in ("client", "command"):
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            wait_for(tmp_path / "waiting")
            (tmp_path / "waiting").unlink()
            fork = next(int(number) for number in forks() if int(number) != client.pid)
            os.kill(client.pid if killed == "client" else fork, signal.SIGKILL)
            said = client.stderr.read()
            assert client.wait(20) == (-signal.SIGKILL if killed == "client" else 1)
        assert ("the process of the command was killed" in said) is (killed == "command")
        until = time.monotonic() + 20
        while forks() and time.monotonic() < until:
            time.sleep(0.05)
        assert not forks()


def test_a_command_waits_for_a_process_that_is_still_loading(tmp_path):
    (tmp_path / "asked.py").write_text(ASKED)
    (tmp_path / "marker.py").write_text("import time\ntime.sleep(2)\n")
    (tmp_path / "preloaded.py").write_text(script_with(["marker"]))
    code = (
        f"import sys, preloaded; sys.stdin.read() if preloaded.start({str(tmp_path)!r}, dict(__import__('os').environ)) else 0"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    starter = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment, cwd=tmp_path)
    waited = time.monotonic() + 20
    while not (tmp_path / "socket.process").exists() and time.monotonic() < waited:
        time.sleep(0.02)
    try:
        assert not (tmp_path / "socket").exists()
        done = ask(tmp_path, "0", input="")
        assert "loaded" in done.stdout, done.stderr
    finally:
        starter.stdin.close()
        starter.wait(20)


def test_a_command_does_not_wait_for_a_process_that_ended(tmp_path):
    (tmp_path / "asked.py").write_text(ASKED)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    (tmp_path / "socket.process").write_text(str(ended.pid))
    assert "cold" in ask(tmp_path, "0", input="").stdout

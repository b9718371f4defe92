"""The program itself: help, usage errors and their exit code, what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def rl(home: Path, *arguments: str, code: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        **environ,
    }
    start = ["-c", code] if code else ["-m", "rl"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


ERRORS = [
    ("run --nonsense", "Error: unknown flag: --nonsense\nSee 'rl run --help'"),
    ("run --netwrk host x", "did you mean --network?"),
    ("run -Z x", "Error: unknown shorthand flag: 'Z' in -Z\nSee 'rl run --help'"),
    ("run -p", "Error: flag needs an argument: 'p' in -p\nSee 'rl run --help'"),
    ("run --name", "Error: flag needs an argument: --name\n"),
    ("run", "Error: requires at least 1 arg(s), only received 0"),
    ("run --rm=maybe x", 'invalid argument "maybe" for "--rm" flag'),
    ("run --pids-limit many x", 'invalid argument "many" for "--pids-limit" flag'),
    ("run --pull sometimes x", "always"),
    ("rm -t soon x", 'invalid argument "soon" for "-t, --time" flag'),
    ("rm", "Error: you must provide at least one name or id"),
    ("rm -a x", "Error: no arguments are needed with --all"),
    ("ps x", "Error: `rl ps` takes no arguments"),
    ("ps -qs", "Error: quiet conflicts with size and namespace"),
    ("ps --filter nonsense=1", "Error: nonsense is an invalid filter"),
    ("ps --filter status=happy", "Error: unknown container state: happy: invalid argument"),
    ("ps --sort colour", 'Choose from: "command, created'),
    ("inspect nosuch", 'Error: no such object: "nosuch"'),
    ("container inspect nosuch", 'no container with name or ID "nosuch" found'),
    ("tag x", "Error: requires at least 2 arg(s), only received 1"),
    ("nonsense", "Error: unrecognized command `rl nonsense`"),
    ("imagse", "Did you mean this?\n\timage\n\timages\n"),
    ("image nonsense", "Error: unrecognized command `rl image nonsense`\nSee 'rl image --help'"),
    ("container", "Error: missing command `rl container COMMAND`"),
    ("", "Error: missing command `rl COMMAND`"),
    ("--nonsense ps", "Error: unknown flag: --nonsense\nSee 'rl --help'"),
    ("--log-level loud ps", 'invalid argument "loud"'),
    ("completion tcsh", "is not a shell"),
    ("help nonsense", "Error: unrecognized command `rl nonsense`"),
]


@pytest.mark.parametrize(("line", "message"), ERRORS, ids=[line for line, _ in ERRORS])
def test_usage_errors(tmp_path: Path, line: str, message: str) -> None:
    done = rl(tmp_path, *line.split())
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 125


HELPS = [
    ("--help", "run"),
    ("-h", "Options"),
    ("run --help", "--publish"),
    ("rm -h", "--force"),
    ("help ps", "--filter"),
    ("container --help", "exists"),
    ("container ls --help", "--filter"),
    ("image rm --help", "--force"),
    ("help", "images"),
]


@pytest.mark.parametrize(("line", "word"), HELPS, ids=[line for line, _ in HELPS])
def test_help(tmp_path: Path, line: str, word: str) -> None:
    done = rl(tmp_path, *line.split())
    assert word in done.stdout and done.stdout.startswith("Usage: rl")
    assert (done.returncode, done.stderr) == (0, "")


def test_version(tmp_path: Path) -> None:
    from rl import __version__

    for flag in ("--version", "-v"):
        assert rl(tmp_path, flag).stdout == f"rl version {__version__}\n"


def test_empty_tables(tmp_path: Path) -> None:
    assert (
        rl(tmp_path, "ps").stdout == "CONTAINER ID  IMAGE       COMMAND     CREATED     STATUS      PORTS       NAMES\n"
    )
    assert rl(tmp_path, "container", "list", "--noheading").stdout == ""
    assert rl(tmp_path, "ps", "--format", "json").stdout == "[]\n"
    assert rl(tmp_path, "container", "exists", "x").returncode == 1
    assert rl(tmp_path, "rm", "nosuch").returncode == 1
    assert rl(tmp_path, "rmi", "nosuch").returncode == 1


def test_global_options(tmp_path: Path) -> None:
    for line in (("--root", "other", "ps"), ("ps", "--root=other")):
        root = tmp_path / "-".join(line).replace("=", "-")
        done = rl(tmp_path, *[word.replace("other", str(root)) for word in line])
        assert done.returncode == 0 and (root / "containers").is_dir()


def test_unwritable_home(tmp_path: Path) -> None:
    done = rl(tmp_path, "ps", HOME="/proc/nowhere", XDG_DATA_HOME="/proc/nowhere")
    assert done.returncode == 125 and done.stderr.startswith("Error: create /proc/nowhere") and "hint: " in done.stderr


def test_closed_stdout(tmp_path: Path) -> None:
    code = "import os, sys; os.close(1); from rl.__main__ import main; main()"
    done = rl(tmp_path, "ps", code=code)
    assert "Traceback" not in done.stderr
    reader = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); from rl.__main__ import main; main()"
    done = rl(tmp_path, "ps", code=reader)
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    full = "import os, sys; os.dup2(os.open('/dev/full', 1), 1); from rl.__main__ import main; main()"
    done = rl(tmp_path, "ps", code=full)
    assert done.returncode == 125 and "write to standard output failed" in done.stderr


def test_completion(tmp_path: Path) -> None:
    def complete(*words: str) -> str:
        line = " ".join(words)
        return rl(tmp_path, _RL_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)).stdout

    names = tmp_path / ".local/share/rl/names"
    names.mkdir(parents=True)
    (names / "web").symlink_to("../containers/x")
    assert "plain,run" in complete("rl", "r") and "plain,rmi" in complete("rl", "r")
    assert "plain,--publish" in complete("rl", "run", "--publ")
    assert "plain,never" in complete("rl", "run", "--pull", "n")
    assert complete("rl", "stop", "w") == "plain,web\n"
    assert "plain,ls" in complete("rl", "container", "l")
    for shell, word in (("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")):
        assert word in rl(tmp_path, "completion", shell).stdout


BANNED = (
    "click",
    "rich",
    "typing",
    "enum",
    "re",
    "json",
    "dataclasses",
    "subprocess",
    "socket",
    "signal",
    "pathlib",
    "contextlib",
    "logging",
    "shutil",
    "tempfile",
    "datetime",
    "functools",
    "collections",
    "inspect",
    "ast",
    "locale",
    "warnings",
)


@pytest.mark.parametrize(
    "line",
    [
        "--version",
        "ps",
        "ps -a",
        "ps -q",
        "images",
        "inspect web",
        "inspect --format {{.State.ExitCode}} web",
        "rm nosuch",
        "stop nosuch",
    ],
)
def test_import_budget(tmp_path: Path, line: str) -> None:
    """What the hot verbs import; measured in an interpreter that has imported nothing by itself."""
    make_container(tmp_path, "web")
    code = (
        "import os, sys\nbefore = set(sys.modules)\n"
        "def end(code):\n"
        "    sys.stdout.flush(); sys.stderr.flush()\n"
        "    os.write(2, ('\\nIMPORTED ' + ' '.join(set(sys.modules) - before)).encode()); real(code)\n"
        "real, os._exit = os._exit, end\n"
        "sys.path.insert(0, os.environ['PYTHONPATH'])\nfrom rl.__main__ import main\nmain()"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *line.split()], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "IMPORTED" in done.stderr, done.stderr
    imported = done.stderr.rpartition("IMPORTED ")[2].split()
    assert not set(imported) & set(BANNED), (line, sorted(imported))


def make_container(home: Path, name: str) -> str:
    """A stopped container's records, as create and the monitor leave them."""
    import json

    container_id = "c0ffee" + "0" * 58
    directory = home / ".local/share/rl/containers" / container_id
    directory.mkdir(parents=True)
    config = {
        "id": container_id,
        "name": name,
        "created": "2026-01-02T03:04:05.000000006Z",
        "image": "localhost/x:1",
        "image_id": "a" * 64,
        "command": ["sh", "-c", "exit 3"],
        "arguments": ["sh", "-c", "exit 3"],
        "labels": {"a": "b"},
    }
    state = {
        "status": "exited",
        "pid": 0,
        "started": "2026-01-02T03:04:06Z",
        "finished": "2026-01-02T03:04:07Z",
        "exit_code": 3,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "state.json").write_text(json.dumps(state))
    names = home / ".local/share/rl/names"
    names.mkdir(exist_ok=True)
    (names / name).symlink_to(f"../containers/{container_id}")
    return container_id


def test_exit_code_by_template(tmp_path: Path) -> None:
    container_id = make_container(tmp_path, "web")
    assert rl(tmp_path, "inspect", "--format", "{{.State.ExitCode}}", "web").stdout == "3\n"
    assert rl(tmp_path, "ps", "-aq", "--no-trunc").stdout == container_id + "\n"
    assert rl(tmp_path, "ps", "-a", "--format", '{{.Names}}\\t{{.Labels}} {{.Label "a"}}').stdout == "web\tmap[a:b] b\n"
    assert rl(tmp_path, "ps", "--format", "{{.Names}}").stdout == ""
    done = rl(tmp_path, "inspect", "--format", "{{.Nonsense}}", "web")
    assert done.returncode == 125 and "can't evaluate field Nonsense" in done.stderr and "State" in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense",
        "[]",
        '{"status": "exi',
    ],
)
@pytest.mark.parametrize("file", ["state.json", "config.json"])
def test_damaged_record(tmp_path: Path, content: str, file: str) -> None:
    container_id = make_container(tmp_path, "web")
    (tmp_path / ".local/share/rl/containers" / container_id / file).write_text(content)
    done = rl(tmp_path, "ps", "-a")
    if (file, content) == ("state.json", ""):  # what a power cut leaves
        assert "Exited (255)" in done.stdout and done.stderr == ""
        assert rl(tmp_path, "inspect", "--format", "{{.State.Error}}", "web").stdout == "the host lost its power\n"
        return
    assert done.returncode == 0 and "web" in done.stderr and file in done.stderr and "web" not in done.stdout

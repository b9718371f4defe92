"""Secrets as a user has them: kept, given to containers as files and variables, and nowhere else to be found."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.conftest import Rl

MARK = "hunter2-swordfish"


@pytest.fixture(scope="module")
def kept(_user_rl: Rl) -> Iterator[Rl]:
    """Two secrets: `key` (of a file) and `token` (of standard input)."""
    rl = _user_rl
    (rl.user.home / "data").write_text(MARK)
    rl.ok("secret", "create", "--label", "a=b", "key", "data")
    rl.ok("secret", "create", "-d", "file", "token", "-", input=f"{MARK}-token")
    yield rl
    rl.clean()
    rl("secret", "rm", "--all")


def test_create_ls_inspect_rm(kept: Rl) -> None:
    rl = kept
    first = rl.ok("secret", "create", "--env", "of-env", "VALUE", env={"VALUE": "from the environment"})
    assert rl.ok("secret", "inspect", "--showsecret", "-f", "{{.SecretData}}", "of-env") == "from the environment"
    assert rl.ok("secret", "create", "--ignore", "of-env", "data") == first
    second = rl.ok("secret", "create", "--replace", "--driver-opts", f"path={rl.user.home}/elsewhere", "of-env", "data")
    assert second != first and (rl.user.home / "elsewhere" / second).read_text() == MARK
    assert rl.ok("secret", "ls", "--noheading", "--filter", "name=^(key|of)", "--format", "{{.Name}} {{.Driver}}").split("\n") == [
        "key file", "of-env file",
    ]
    assert rl.ok("secret", "list", "-q", "--filter", f"id={second[:10]}") == second
    assert rl.ok("secret", "ls").split("\n")[0].split() == ["ID", "NAME", "DRIVER", "CREATED", "UPDATED"]
    document = json.loads(rl.ok("secret", "inspect", "key"))[0]
    assert document["Spec"]["Name"] == "key" and document["Spec"]["Labels"] == {"a": "b"} and "SecretData" not in document
    assert rl.ok("secret", "inspect", "--pretty", "key").split("\n")[1] == "Name:              key".replace("   ", " ", 1)
    assert rl("secret", "exists", "key").returncode == 0 and rl("secret", "exists", "nope").returncode == 1
    done = rl("secret", "rm", "of-env", "nope")
    assert (done.returncode, done.stdout.strip()) == (125, second) and 'no secret with name or id "nope"' in done.stderr
    assert not (rl.user.home / "elsewhere" / second).exists()
    assert rl.ok("secret", "rm", "--ignore", "nope") == ""
    for path in (rl.data / "secrets").rglob("*"):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


BAD = [
    ("secret create key data", "key: secret name in use", "--replace"),
    ("secret create a,b data", "'a,b' is not valid", "comma"),
    ("secret create new no-such-file", "open no-such-file: no such file or directory", ""),
    ("secret create new /dev/null", "larger than 0 and less than 512000 bytes", ""),
    ("secret create --env new NO_SUCH", "environment variable NO_SUCH is not set", ""),
    ("secret create --driver vault new data", "invalid driver 'vault'", "file, pass, shell"),
    ("secret create --driver-opts x=y new data", "no option 'x'", "path"),
    ("secret create --replace --ignore new data", "contradict", ""),
    ("secret create new", "accepts 2 arg(s), received 1", "--help"),
    ("secret ls --filter label=x", 'invalid filter "label"', "name, id"),
    ("secret ls -q --format json", "mutually exclusive", ""),
    ("secret inspect nope", 'inspecting secret: no secret with name or id "nope": no such secret', "rl secret ls"),
    ("secret inspect -f {{.Nope}} key", "can't evaluate field Nope", "Spec"),
    ("secret inspect --pretty -f x key", "contradict", ""),
    ("secret rm", "requires one argument, or the --all flag", ""),
    ("secret rm --all key", "requires one argument, or the --all flag", ""),
    ("run --secret nope busybox true", 'no secret with name or id "nope": no such secret', "rl secret ls"),
    ("run --secret key,type=file busybox true", "type 'file' is invalid", "type=env"),
    ("run --secret key,color=red busybox true", "unknown option 'color=red'", "target="),
    ("run --secret key --secret token,target=key busybox true", "/run/secrets/key is given twice", "target"),
    ("run --tmpfs /run/secrets --secret key busybox true", "/run/secrets/key: duplicate mount destination", "target="),
    ("run --network=none --secret key,uid=4000000 busybox true", "4000000:0 is not in the container's id map", "uid="),
]


def test_refused(kept: Rl) -> None:
    before = sorted((kept.data / "secrets").iterdir())
    for words, says, hint in BAD:
        told(kept, words, says, hint)
    assert sorted((kept.data / "secrets").iterdir()) == before
    assert kept.containers() == []


def told(rl: Rl, words: str, says: str, hint: str) -> None:
    """The command fails with 125, one error that holds *says*, and a hint that holds *hint*."""
    done = rl(*shlex.split(words))
    assert done.returncode == 125, words + done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert sum(line.startswith("Error: ") and says in line for line in lines) == 1, words + done.stderr
    assert not hint or any(line.startswith("hint: ") and hint in line for line in lines), words + done.stderr
    assert "Traceback" not in done.stderr


def test_in_a_container_and_nowhere_else(kept: Rl) -> None:
    rl = kept
    script = ("cat /run/secrets/key; stat -c '%a %u %g' /run/secrets/key /run/secrets/d/own /etc/own; echo $KEY; "
              "head -c 5 /run/secrets/d/own; exec sleep 60")
    identity = rl.ok(
        "run", "-d", "--name", "with", "--network=none", "--secret", "key", "--secret", "token,type=env,target=KEY",
        "--secret", "key,target=d/own,uid=5,gid=6,mode=0400", "--secret", "source=token,target=/etc/own", "busybox", "sh", "-c", script,
    )
    rl.ok("secret", "rm", "key", "token")
    rl.ok("container", "clone", "--run", "with", "like-it")
    rl.ok("rm", "-f", "-t", "0", "like-it") if rl("exec", "like-it", "grep", MARK, "/run/secrets/key").returncode == 0 else None
    assert rl("container", "exists", "like-it").returncode == 1
    assert rl.ok("exec", "with", "sh", "-c", "cat /run/secrets/key; echo; echo $KEY") == f"{MARK}\n{MARK}-token"
    rl.ok("restart", "-t", "0", "with")  # it keeps what it was given, though the secrets are gone
    lines = rl.ok("logs", "with").split("\n")
    expected = [f"{MARK}444 0 0", "400 5 6", "444 0 0", f"{MARK}-token", MARK[:5]]
    assert "\n".join(lines).replace(MARK[:5] + MARK, f"{MARK[:5]}\n{MARK}").split("\n") == expected * 2
    assert MARK not in rl.ok("inspect", "with")
    shown = json.loads(rl.ok("inspect", "with"))[0]["Config"]
    assert [use["Name"] for use in shown["Secrets"]] == ["key", "key", "token"]
    directory = rl.data / "containers" / identity
    holders = sorted(path.name for path in directory.rglob("*") if path.is_file() and MARK.encode() in _bytes(path))
    assert len(holders) == 3 and holders[0] == "ctr.log" and all(name.startswith("secret.") for name in holders[1:]), holders
    assert all(stat.S_IMODE((directory / name).stat().st_mode) == 0o600 for name in holders[1:])
    init = rl.ok("inspect", "-f", "{{.State.Pid}}", "with")
    assert [pid for pid in _pids_with(MARK.encode()) if pid != init] == []
    rl.ok("rm", "-f", "-t", "0", "with")
    assert not directory.exists()
    rl.ok("secret", "create", "key", "data")
    rl.ok("secret", "create", "token", "-", input=f"{MARK}-token")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _pids_with(mark: bytes) -> list[str]:
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in _bytes(path)]


@pytest.mark.parametrize("words", ["--read-only", "--tmpfs /run", "--userns keep-id", "-u app", "--systemd always"])
def test_whatever_else_is_mounted(kept: Rl, words: str) -> None:
    assert kept.ok("run", "--rm", "--network=none", *shlex.split(words), "--secret", "key", "busybox", "cat", "/run/secrets/key") == MARK


def test_with_another_runtime_and_events(kept: Rl) -> None:
    arguments = ["run", "--rm", "--runtime", "crun", "--network=none", "--secret", "key,type=env,target=KEY", "--secret", "token"]
    assert kept.ok(*arguments, "busybox", "sh", "-c", "echo $KEY; cat /run/secrets/token") == f"{MARK}\n{MARK}-token"
    kept.ok("secret", "create", "short-lived", "data")
    gone = kept.ok("secret", "rm", "short-lived")
    log = (kept.run_dir / "events/events.log").read_text()
    events = [json.loads(line) for line in log.splitlines() if gone in line]
    assert len(events) == 2 and MARK not in log

"""rl exec, flag by flag, and its sessions: how they show, what becomes of them when somebody ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.console import Console
from system.conftest import Rl, eventually


@pytest.fixture(scope="module")
def box(_user_rl: Rl) -> Iterator[Rl]:
    """A container of the user app, and one in the host's pid namespace; a file with the id of the first."""
    _user_rl.ok("run", "-d", "--name", "box", "--network=none", "-u", "app", "-e", "COLOR=red", "-w", "/tmp",
                "--cidfile", "box.cid", "busybox", "sleep", "1000")
    _user_rl.ok("run", "-d", "--name", "shared", "--network=none", "--pid=host", "busybox", "sleep", "1000")
    yield _user_rl
    _user_rl.clean()


# (arguments, exit code, standard output)
GOOD = [
    ("box id -u", 0, "1000"),
    ("box pwd", 0, "/tmp"),
    ("-w / box pwd", 0, "/"),
    ("--workdir=/etc box pwd", 0, "/etc"),
    ("-u root box id -u", 0, "0"),
    ("--user 7:8 box id", 0, "uid=7 gid=8 groups=8"),
    ("-u root:extra box id -g", 0, "2000"),
    ("-e COLOR=blue -e SHADE box sh -c 'echo $COLOR-$SHADE'", 0, "blue-"),
    ("-e RL_T* box sh -c 'echo $RL_TONE$RL_TWO'", 0, "12"),
    ("--env-file env box sh -c 'echo $COLOR-$FILE'", 0, "red-yes"),
    ("--privileged -u root box grep CapEff /proc/self/status", 0, "CapEff:\t000001ffffffffff"),
    ("-t box tty", 0, "/dev/pts/0"),
    ("--cidfile box.cid pwd", 0, "/tmp"),
    ("--latest true", 0, ""),
    ("--no-session box pwd", 0, "/tmp"),
    ("--detach-keys= box pwd", 0, "/tmp"),
    ("box sh -c 'exit 7'", 7, ""),
    ("box sh -c 'kill -9 $$'", 137, ""),
    ("box sh -c 'kill -15 $$'", 143, ""),
]
# (arguments, exit code, what the error says)
BAD = [
    ("", 125, "provide the name or id"),
    ("box", 125, "non-empty command"),
    ("nothing true", 125, "no such container"),
    ("ended true", 125, "can only create exec sessions on running containers"),
    ("box no-such-command", 127, "no-such-command"),
    ("-d box no-such-command", 127, "no-such-command"),
    ("box /etc", 126, "/etc"),
    ("box /etc/not-executable", 126, "/etc/not-executable"),
    ("-w /none box true", 127, "/none"),
    ("-w none box true", 125, "absolute"),
    ("-u nobody-here box true", 125, "nobody-here"),
    ("--env-file /none box true", 125, "/none"),
    ("--detach-keys ctrl-% box true", 125, "ctrl-%"),
    ("--preserve-fds 2 box true", 125, "descriptor 3"),
    ("--preserve-fd 8 box true", 125, "descriptor 8"),
    ("--preserve-fd 1 box true", 125, "--preserve-fd"),
    ("--preserve-fd x box true", 125, "--preserve-fd"),
    ("--preserve-fd 3 --preserve-fds 1 box true", 125, "contradict"),
    ("--cidfile /none true", 125, "/none"),
    ("--cidfile box.cid --latest true", 125, "together"),
    ("--no-such-flag box true", 125, "--no-such-flag"),
]


def words(text: str) -> list[str]:
    import shlex

    return shlex.split(text)


def test_flags(box: Rl) -> None:
    (box.user.home / "env").write_text("FILE=yes\n")
    for text, code, output in GOOD:
        done = box("exec", *words(text), env={"RL_TONE": "1", "RL_TWO": "2"})
        assert (done.returncode, done.stdout.strip()) == (code, output), (text, done.stderr)
    box.ok("create", "--name", "ended", "busybox", "true")
    for text, code, says in BAD:
        done = box("exec", *words(text))
        assert done.returncode == code and says in done.stderr, (text, done.returncode, done.stderr)
        assert done.stderr.startswith("Error: ") and "Traceback" not in done.stderr
    box.ok("rm", "ended")


def test_streams_and_descriptors(box: Rl) -> None:
    def shell(line: str) -> str:
        return box.user.run("sh", "-c", line, check=True).stdout.strip()

    assert shell("echo in | rl exec -i box cat") == "in"
    assert shell("echo in | rl exec box cat") == ""
    assert shell("rl exec box sh -c 'echo out; echo err >&2' 2>&1 >/dev/null") == "err"
    assert shell("rl exec --preserve-fds 2 box sh -c 'cat <&3; cat <&4' 3<env 4<box.cid") == "FILE=yes\n" + box.ok(
        "inspect", "-f", "{{.Id}}", "box"
    )
    # By their own numbers, and nothing in the gap though the caller has 4 open.
    probe = "cat <&3; test -e /proc/self/fd/4 || echo none; cat <&5"
    assert shell(f"rl exec --preserve-fd 3,5 box sh -c '{probe}' 3<env 4<env 5<env") == "FILE=yes\nnone\nFILE=yes"


def sessions(rl: Rl, name: str) -> list[str]:
    return list(json.loads(rl.ok("inspect", name))[0]["ExecIDs"])


def running(rl: Rl, command: str) -> list[str]:
    return [line for line in rl.user.processes() if re.fullmatch(rf"\d+ {command}", line)]


def test_sessions(box: Rl) -> None:
    """Shown while they run, whoever started them; one whose command line was killed goes on, and shows too."""
    detached = box.ok("exec", "-d", "box", "sleep", "611")
    attached = box.user.popen("rl", "exec", "box", "sleep", "612", stdin=subprocess.DEVNULL)
    eventually(lambda: len(sessions(box, "box")) == 2, every=0.02)
    assert detached in sessions(box, "box") and len(detached) == 64
    attached.kill()
    attached.wait()
    assert len(sessions(box, "box")) == 2
    for line in running(box, "sleep 61[12]"):
        os.kill(int(line.split()[0]), signal.SIGKILL)
    eventually(lambda: sessions(box, "box") == [], every=0.02)
    assert not list((box.run_dir / "containers").glob("*/exec-*"))
    log = [json.loads(line) for line in (box.run_dir / "events/events.log").read_text().splitlines()]
    told = [event["Status"] for event in log if event["Name"] == "box" and "exec" in event["Status"]]
    died = [event for event in log if (event.get("Attributes") or {}).get("execID") == detached]
    assert told.count("exec") > 2 and [(event["Status"], event["ContainerExitCode"]) for event in died] == [("exec_died", 137)]


def test_detached_terminal(box: Rl) -> None:
    """It has a terminal that takes whatever it writes, and only a small process of ours stays."""
    box.ok("exec", "-dt", "box", "sh", "-c", "yes | head -200000; exec sleep 613")
    eventually(lambda: running(box, "sleep 613"))
    keeper = next(line.split()[0] for line in box.user.processes() if sessions(box, "box")[0] in line)
    pss = int(Path(f"/proc/{keeper}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0])
    assert pss < 5500, "kB, nothing but this interpreter shares them"
    os.kill(int(running(box, "sleep 613")[0].split()[0]), signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{keeper}/exe"))


def test_leaving_by_keys(box: Rl) -> None:
    console = Console(box.user, ["rl", "exec", "-it", "--detach-keys", "ctrl-x", "box", "sh"], 33, 77)
    try:
        console.until(r"\$ ")
        console.type("stty size\n")
        console.until("33 77")
        console.resize(44, 88)
        console.type("stty size\n")
        console.until("44 88")
        console.type("exec sleep 614\n")
        eventually(lambda: running(box, "sleep 614"), every=0.02)
        console.type("\x18")
        assert console.end() == 0
    finally:
        console.close()
    assert len(sessions(box, "box")) == 1 and running(box, "sleep 614")
    os.kill(int(running(box, "sleep 614")[0].split()[0]), signal.SIGKILL)
    eventually(lambda: not sessions(box, "box"), every=0.02)


@pytest.mark.parametrize("name", ["box", "shared"])
def test_ends_with_its_container(box: Rl, name: str) -> None:
    """Also where the pid namespace is the host's: with all that it started. Last, as it stops both."""
    attached = box.user.popen("rl", "exec", name, "sh", "-c", "sleep 615 & sleep 616", stdin=subprocess.DEVNULL)
    box.ok("exec", "-d", name, "sh", "-c", "sleep 617 & sleep 618")
    eventually(lambda: len(running(box, "sleep 61[5-8]")) == 4, every=0.02)
    box.ok("stop", "-t", "0", name)
    assert attached.wait(10) == 137
    eventually(lambda: not running(box, "sleep 61[5-8]"), seconds=2, every=0.02)
    assert sessions(box, name) == []
    box.ok("start", name)
    assert sessions(box, name) == []

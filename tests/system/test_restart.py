"""Restart policies, rl restart, rl init, --timeout: one monitor for as many runs as it takes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from system.conftest import Rl, eventually

RUN = ("run", "-d", "--network=none")


def state(rl: Rl, name: str) -> dict[str, Any]:
    found = json.loads(rl.ok("container", "inspect", name))[0]
    return {**found["State"], "RestartCount": found["RestartCount"], "Policy": found["HostConfig"]["RestartPolicy"]}


def until(rl: Rl, name: str, status: str, restarts: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    eventually(lambda: rl("container", "exists", name).returncode == 0, every=0.03)

    def check() -> bool:
        found.update(state(rl, name))
        return bool(found["Status"] == status and found["RestartCount"] >= restarts)

    eventually(check, every=0.03)
    return found


@pytest.mark.parametrize(
    ("policy", "script", "restarts", "code"),
    [
        ("on-failure:2", "echo run; exit 3", 2, 3),
        ("on-failure", "echo run; exit 0", 0, 0),
        ("on-failure", "echo run; test -e /second && exit 0; touch /second; exit 1", 1, 0),
        ("no", "echo run; exit 3", 0, 3),
        ("never", "echo run; exit 4", 0, 4),
        ("on-failure:1", "echo run; rm /bin/sh", 0, 0),
    ],
)
def test_policies(rl: Rl, policy: str, script: str, restarts: int, code: int) -> None:
    """In the foreground: the client stays to the end, and what all runs wrote is in one stream and one log."""
    done = rl("run", "--network=none", "--name=c", f"--restart={policy}", "busybox", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (code, "run\n" * (restarts + 1)), done.stderr
    assert rl.ok("logs", "c") == done.stdout.removesuffix("\n")
    found = state(rl, "c")
    assert (found["Status"], found["RestartCount"], found["ExitCode"]) == ("exited", restarts, code)
    name, _, count = policy.partition(":")
    assert found["Policy"] == {"Name": name.replace("never", "no"), "MaximumRetryCount": int(count or 0)}


def test_same_monitor_until_stopped(rl: Rl) -> None:
    rl.ok(*RUN, "--name=c", "--restart=always", "busybox", "sh", "-c", "echo run; exit 7")
    first = until(rl, "c", "restarting")
    assert (first["Restarting"], first["Running"], first["Pid"], first["ExitCode"]) == (True, False, 0, 7)
    assert rl.ok("ps", "--format", "{{.Names}} {{.State}} {{.Status}}").startswith("c restarting Restarting (7)")
    again = until(rl, "c", "restarting", first["RestartCount"] + 2)
    assert again["ConmonPid"] == first["ConmonPid"]
    files = os.listdir(f"/proc/{again['ConmonPid']}/fd")
    done = rl("rm", "c")
    assert done.returncode == 2 and "restarting" in done.stderr
    began = time.monotonic()
    assert rl.ok("stop", "c") == "c"
    assert time.monotonic() - began < 2
    ended = state(rl, "c")
    assert (ended["Status"], ended["ExitCode"], ended["StoppedByUser"]) == ("exited", 7, True)
    assert not list((rl.run_dir / "containers").iterdir())
    assert len(rl.ok("logs", "c").splitlines()) == ended["RestartCount"] + 1
    assert len(files) < 12


@pytest.mark.parametrize("end", [("stop", "-t", "0"), ("kill",), ("kill", "-s", "TERM"), ("rm", "-f", "-t", "0")])
def test_what_its_user_ends_stays_so(rl: Rl, end: tuple[str, ...]) -> None:
    """Both while it runs, and while it waits to run again."""
    for script in ("trap 'exit 1' TERM; while :; do sleep 0.1; done", "exit 1"):
        rl.ok(*RUN, "--name=c", "--restart=unless-stopped", "busybox", "sh", "-c", script)
        until(rl, "c", "restarting" if script == "exit 1" else "running")
        waiter = rl.user.popen("rl", "wait", "c", stdout=-1)
        rl.ok(*end, "c")
        waiter.communicate(timeout=20)
        if end[0] != "rm":
            found = until(rl, "c", "exited")
            assert found["StoppedByUser"] and found["RestartCount"] <= 1
            time.sleep(0.15)
            assert state(rl, "c")["Status"] == "exited"
        rl("rm", "-f", "c")


def test_ctrl_c_ends_it_at_any_time(rl: Rl) -> None:
    """In the foreground: while it runs, with its exit code, and while it waits."""
    for script in ("trap 'exit 9' INT; echo up; while :; do sleep 0.05; done", "echo up; exit 9"):
        client = rl.user.popen("rl", "run", "--network=none", "--name=c", "--restart=always", "busybox", "sh", "-c", script, stdout=-1)
        until(rl, "c", "restarting", 1) if "trap" not in script else eventually(lambda: "up" in rl("logs", "c").stdout)
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=20)
        assert client.returncode in (9, 130)
        assert until(rl, "c", "exited")["StoppedByUser"] and state(rl, "c")["ExitCode"] == 9
        rl.ok("rm", "c")


def test_a_signal_that_does_not_end_it_changes_nothing(rl: Rl) -> None:
    rl.ok(*RUN, "--name=c", "--restart=on-failure:1", "busybox", "sh", "-c", "trap 'exit 5' HUP; while :; do sleep 0.1; done")
    eventually(lambda: "SigCgt:\t0000000000000000" not in Path(f"/proc/{state(rl, 'c')['Pid']}/status").read_text())
    rl.ok("kill", "-s", "HUP", "c")
    assert until(rl, "c", "running", 1)["RestartCount"] == 1


def test_start_ends_the_wait_and_update_the_policy(rl: Rl) -> None:
    rl.ok(*RUN, "--name=c", "--restart=always", "busybox", "sh", "-c", "echo run; test -e /stay && exec sleep 60; exit 1")
    until(rl, "c", "restarting", 3)
    rl.ok("start", "c")
    assert state(rl, "c")["RestartCount"] == 0
    assert rl.ok("update", "--restart=on-failure:9", "c")
    assert until(rl, "c", "restarting")["Policy"] == {"Name": "on-failure", "MaximumRetryCount": 9}
    rl.ok("update", "--restart=no", "c")
    rl.ok("start", "c")
    assert until(rl, "c", "exited")["ExitCode"] == 1
    rl.ok("update", "--restart=always", "c")
    rl.ok("start", "c")
    assert until(rl, "c", "restarting")["Policy"]["Name"] == "always"


def test_a_start_that_fails_is_a_failed_run(rl: Rl) -> None:
    """The record says why, and that the policy goes on; `rl start` gets the error."""
    rl.ok(*RUN, "--name=c", "--restart=always", "busybox", "sh", "-c", "cp /bin/busybox /keep; rm /bin/sh; exit 9")
    found = until(rl, "c", "restarting", 2)
    assert found["ExitCode"] == 127 and "executable file not found" in found["Error"]
    done = rl("start", "c")
    assert done.returncode == 127 and "executable file not found" in done.stderr
    rl.ok("update", "--restart=on-failure:1", "c")
    assert rl("start", "c").returncode == 127
    assert until(rl, "c", "exited")["ExitCode"] == 127
    assert not list((rl.run_dir / "containers").iterdir())


def test_a_monitor_killed_between_two_runs(rl: Rl) -> None:
    rl.ok(*RUN, "--name=c", "--restart=always", "busybox", "false")
    os.kill(until(rl, "c", "restarting", 2)["ConmonPid"], signal.SIGKILL)
    found = until(rl, "c", "exited")
    assert (found["Error"], found["ExitCode"]) == ("the monitor was killed", 1)
    assert rl("rm", "c").returncode == 0


BAD = [
    (("run", "--restart=bogus"), '"bogus" is not a valid restart policy'.replace('"', "'")),
    (("run", "--restart=always:3"), "retries can only be specified with on-failure"),
    (("run", "--restart=on-failure:1:2"), "may specify retries at most once"),
    (("run", "--restart=on-failure:-1"), "not a number of retries"),
    (("run", "--rm", "--restart=always"), "--rm option conflicts with --restart"),
    (("run", "--timeout=-1"), "--timeout"),
]


@pytest.mark.parametrize(("words", "text"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_refused(rl: Rl, words: tuple[str, ...], text: str) -> None:
    done = rl(*words, "busybox", "true")
    assert done.returncode == 125 and text in done.stderr, done.stderr
    assert not rl.containers()


def test_restart_in_place(rl: Rl) -> None:
    """An attached client sees both runs; --rm removes it at the real end only; other containers are started."""
    client = rl.user.popen("rl", "run", "--rm", "--network=none", "--name=a", "busybox", "sh", "-c",
                           "echo run; trap 'exit 3' TERM; while :; do sleep 0.05; done", stdout=-1, stderr=-1)  # fmt: skip
    eventually(lambda: rl("logs", "a").stdout == "run\n", every=0.03)
    rl.ok("create", "--network=none", "--name=b", "busybox", "sleep", "60")
    before = state(rl, "a")
    assert sorted(rl.ok("restart", "-t", "3", "a", "b").split()) == ["a", "b"]
    after = state(rl, "a")
    assert after["ConmonPid"] == before["ConmonPid"] and after["Pid"] != before["Pid"] and after["Status"] == "running"
    pid = state(rl, "b")["Pid"]
    assert rl.ok("restart", "--time=0", "--running").split() and state(rl, "b")["Pid"] != pid
    rl.ok("stop", "-t", "3", "a")
    out, _ = client.communicate(timeout=20)
    assert (client.returncode, out) == (3, b"run\nrun\nrun\n")
    assert [row["Names"] for row in json.loads(rl.ok("ps", "-a", "--format=json"))] == [["b"]]


def test_restart_of_containers_that_need_each_other(rl: Rl) -> None:
    """Each joins the namespace that the one it needs has now, whatever order they are listed in."""
    rl.ok(*RUN, "--name=a", "busybox", "sleep", "60")
    rl.ok("run", "-d", "--network=container:a", "--name=b", "busybox", "sleep", "60")
    rl.ok("run", "-d", "--network=container:b", "--name=c", "busybox", "sleep", "60")
    pids = [state(rl, name)["Pid"] for name in "abc"]
    assert sorted(rl.ok("restart", "--time=0", "c", "b", "a").split()) == ["a", "b", "c"]
    assert not set(pids) & {state(rl, name)["Pid"] for name in "abc"}
    assert len({rl.ok("exec", name, "readlink", "/proc/self/ns/net") for name in "abc"}) == 1
    rl.ok("stop", "-t", "0", "a", "b")
    assert rl.ok("restart", "--time=0", "c") == "c"  # what it needs is started, as by `rl start`
    assert rl.ok("ps", "--format={{.Names}}").split() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("restart",), 125, "you must provide at least one name or id"),
        (("restart", "nosuch"), 125, "nosuch"),
        (("restart", "-a", "x"), 125, "no arguments are needed with --all"),
        (("restart", "--filter", "nosuch=1"), 125, "invalid filter"),
        (("init", "nosuch"), 125, "nosuch"),
        (("init",), 125, "you must provide at least one name or id"),
    ],
)
def test_bad_restart_and_init(rl: Rl, words: tuple[str, ...], code: int, text: str) -> None:
    done = rl(*words)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_init(rl: Rl, tmp_path: Path) -> None:
    """All but the command: what shows, what is refused, and that it is started, stopped, removed from there."""
    pidfile, monitor = rl.user.home / "pid", rl.user.home / "monitor.pid"
    rl.ok("create", "--network=none", "--name=c", "--pidfile", pidfile, "--conmon-pidfile", monitor, "busybox", "echo", "ran")
    assert rl.ok("init", "c") == "c"
    found = state(rl, "c")
    assert found["Status"] == "initialized" and not found["Running"] and found["StartedAt"].startswith("0001")
    assert os.path.isdir(f"/proc/{found['Pid']}") and rl.ok("logs", "c") == ""
    assert rl.ok("ps") == rl.ok("ps", "--filter", "status=running") and "Initialized" in rl.ok("ps", "-a")
    for words in (("init", "c"), ("exec", "c", "true"), ("kill", "c"), ("attach", "c")):
        done = rl(*words)
        assert done.returncode and ("improper" in done.stderr or "initialized" in done.stderr), words
    assert rl.ok("init", "--all").split() == rl.containers()
    assert rl.ok("start", "--attach", "c") == "ran"
    assert until(rl, "c", "exited")["Pid"] == 0 and int(pidfile.read_text()) == found["Pid"]
    assert int(monitor.read_text()) == found["ConmonPid"]
    rl.ok("init", "c")
    rl.ok("stop", "c")
    assert state(rl, "c")["ExitCode"] == 137
    rl.ok("init", "c")
    assert rl.ok("rm", "c") == "c"
    rl.ok("create", "--network=none", "--name=d", "busybox", "nosuchcommand")
    assert rl("init", "d").returncode == 127 and state(rl, "d")["Status"] == "created"
    assert not list((rl.run_dir / "containers").iterdir())


def test_timeout(rl: Rl) -> None:
    """conmon's exit code, -1: 255 for a process."""
    began = time.monotonic()
    done = rl("run", "--network=none", "--name=c", "--timeout=1", "busybox", "sleep", "60")
    assert (done.returncode, state(rl, "c")["ExitCode"]) == (255, -1)
    assert 0.9 < time.monotonic() - began < 5
    assert json.loads(rl.ok("container", "inspect", "c"))[0]["Config"]["Timeout"] == 1


def test_the_next_run_is_as_the_first(rl: Rl) -> None:
    """Which the monitor is not: its score for the OOM killer, its signals, its descriptors, its directory."""
    script = "cat /proc/self/oom_score_adj; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd; env; pwd; exit 1"
    line = f"echo 300 > /proc/self/oom_score_adj; exec rl run --network=none --restart=on-failure:1 busybox sh -c {shlex.quote(script)}"
    done = rl.user.run("bash", "-c", line)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[: len(lines) // 2] == lines[len(lines) // 2 :] and lines[0] == "300", done.stdout

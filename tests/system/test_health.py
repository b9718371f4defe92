"""Health checks: what flags and images ask for, what probes make of a container, who is told."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import images
from support.cgroup_lane import CgroupLane
from system.conftest import Rl, eventually

SECOND = 10**9


@pytest.fixture(scope="module")
def host(_user_rl: Rl) -> Iterator[Rl]:
    """An image with a HEALTHCHECK, and a directory for logs."""
    with tempfile.TemporaryDirectory(prefix="rl-test-", dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        check = {"Test": ["CMD-SHELL", "test -e /tmp/ok"], "Interval": SECOND // 5, "Timeout": 3 * SECOND, "Retries": 2}
        config = {"Cmd": ["sleep", "1000"], "User": "app", "Env": ["COLOR=red"], "Healthcheck": check}
        archive = images.busybox(directory, config, "checked:latest")
        archive.chmod(0o644)
        _user_rl.ok("load", "-q", "-i", archive)
    _user_rl.user.run("mkdir", "-p", "logs", check=True)
    yield _user_rl
    _user_rl.clean()
    _user_rl.ok("rmi", "checked")


def start(rl: Rl, name: str, *flags: str, image: str = "busybox") -> None:
    command = ["sleep", "1000"] if image == "busybox" else []
    rl.ok("run", "-d", "--name", name, "--network=none", "--stop-timeout=0", *flags, image, *command)


def document(rl: Rl, name: str) -> dict[str, Any]:
    return dict(json.loads(rl.ok("inspect", name))[0])


def health(rl: Rl, name: str) -> dict[str, Any]:
    return dict(document(rl, name)["State"]["Health"])


def events(rl: Rl, name: str) -> list[dict[str, Any]]:
    lines = (rl.run_dir / "events/events.log").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [event for event in found if event["Name"] == name]


# (flags, .Config.Healthcheck)
ASKED: list[tuple[list[str], Any]] = [
    (["--health-cmd", "curl -f x || exit 1"], {"Test": ["CMD-SHELL", "curl -f x || exit 1"], "Interval": 30 * SECOND, "Timeout": 30 * SECOND, "Retries": 3}),
    (["--health-cmd", '["curl", "-f"]', "--health-interval=1m30s", "--health-timeout=1.5s", "--health-retries=7",
      "--health-start-period=1h", "--health-start-interval=500ms"],
     {"Test": ["CMD", "curl", "-f"], "Interval": 90 * SECOND, "Timeout": 3 * SECOND // 2, "StartPeriod": 3600 * SECOND,
      "StartInterval": SECOND // 2, "Retries": 7}),
    (["--health-cmd", "true", "--health-interval=disable"], {"Test": ["CMD-SHELL", "true"], "Timeout": 30 * SECOND, "Retries": 3}),
    (["--health-cmd", "none"], {"Test": ["NONE"], "Interval": 30 * SECOND, "Timeout": 30 * SECOND, "Retries": 3}),
    (["--no-healthcheck"], {"Test": ["NONE"]}),
]


def test_what_was_asked(host: Rl) -> None:
    for flags, expected in ASKED:
        host.ok("create", "--name", "asked", *flags, "checked")
        assert document(host, "asked")["Config"]["Healthcheck"] == expected, flags
        host.ok("rm", "asked")
    host.ok("create", "--name", "asked", "--health-interval=7s", "--health-max-log-count=2", "--health-max-log-size=9",
            "--health-log-destination=events_logger", "--health-on-failure=kill", "--health-startup-cmd=a b",
            "--health-startup-interval=1s", "--health-startup-retries=4", "--health-startup-success=3",
            "--health-startup-timeout=2s", "checked")
    config = document(host, "asked")["Config"]
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "test -e /tmp/ok"], "Interval": 7 * SECOND, "Timeout": 3 * SECOND, "Retries": 2}
    assert config["StartupHealthCheck"] == {"Test": ["CMD-SHELL", "a b"], "Interval": SECOND, "Timeout": 2 * SECOND, "Retries": 4, "Successes": 3}
    assert [config[key] for key in ("HealthcheckOnFailureAction", "HealthLogDestination", "HealthcheckMaxLogCount", "HealthcheckMaxLogSize")] == [
        "kill", "events_logger", 2, 9]
    host.ok("rm", "asked")


# (flags of `rl create`, image, what the error says)
BAD = [
    ("--health-interval 3s", "busybox", "without a health check"),
    ("--health-on-failure kill", "busybox", "cannot set on-failure action to kill without a health check"),
    ("--health-cmd true --no-healthcheck", "busybox", "cannot specify both --no-healthcheck and --health-cmd"),
    ("--health-cmd none --health-retries 3", "checked", "without a health check"),
    ("--health-cmd true --health-on-failure explode", "busybox", 'invalid on-failure action "explode"'),
    ("--health-cmd true --health-interval 5", "busybox", "invalid healthcheck-interval"),
    ("--health-cmd true --health-retries x", "busybox", "--health-retries"),
    ("--health-cmd true --health-log-destination /none", "busybox", "no such directory"),
    ('--health-cmd ["CMD"]', "busybox", "must define a healthcheck command"),
]


def test_bad(host: Rl) -> None:
    for flags, image, says in BAD:
        done = host("create", *flags.split(), image, "true")
        assert (done.returncode, says in done.stderr) == (125, True), (flags, done.stderr)
    host.ok("create", "--name", "still", "--health-cmd", "true", "busybox", "true")
    host.ok("create", "--name", "unchecked", "busybox", "true")
    for words, says in (
        ("healthcheck run still", "is not running"), ("healthcheck run unchecked", "has no defined healthcheck"),
        ("healthcheck run nothing", "unable to look up nothing"), ("healthcheck run", "1 arg"),
        ("ps --filter health=fine", "fine"), ("wait --condition healthy unchecked", "has no defined healthcheck"),
    ):
        done = host(*words.split())
        assert (done.returncode, says in done.stderr) == (125, True), (words, done.stderr)
    host.ok("rm", "still", "unchecked")


def test_a_life(host: Rl) -> None:
    """The image's check: starting, unhealthy, healthy; the monitor becomes lean meanwhile, and stays small."""
    start(host, "life", image="checked")
    assert host.ok("inspect", "-f", "{{.State.Healthcheck.Status}}", "life") == "starting"
    assert host.ok("wait", "--condition", "unhealthy", "life") == "-1"
    assert re.search(r"Up .* \(unhealthy\)", host.ok("ps", "--format", "{{.Status}}"))
    found = health(host, "life")
    assert found["FailingStreak"] >= 2 and found["Log"][-1]["ExitCode"] == 1
    assert host("healthcheck", "run", "life").stdout == "unhealthy\n"
    assert host("healthcheck", "run", "life").returncode == 1
    assert host("healthcheck", "run", "--ignore-result", "life").returncode == 0
    host.ok("exec", "life", "touch", "/tmp/ok")
    assert host.ok("wait", "--condition=healthy,unhealthy", "life") == "-1"
    assert host.ok("wait", "--condition", "healthy", "life") == "-1"
    assert host("healthcheck", "run", "life").stdout == ""
    found = health(host, "life")
    assert (found["Status"], found["FailingStreak"], len(found["Log"])) == ("healthy", 0, 5)
    assert all(entry["Start"] < entry["End"] for entry in found["Log"])
    assert host.ok("ps", "-q", "--filter", "health=healthy"), host.ok("ps", "-a") + str(document(host, "life")["State"])
    assert not host.ok("ps", "-q", "--filter", "health=unhealthy")
    pid = host.ok("inspect", "-f", "{{.State.ConmonPid}}", "life")
    eventually(lambda: "rl-monitor" in Path(f"/proc/{pid}/cmdline").read_text())
    many = len(events(host, "life"))
    eventually(lambda: len(events(host, "life")) > many + 1)  # the lean one goes on
    statuses = [event["HealthStatus"] for event in events(host, "life") if event["Status"] == "health_status"]
    assert statuses[:3] == ["starting", "unhealthy", "unhealthy"] and statuses[-1] == "healthy"
    pss = int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0])
    assert pss < 5500, "kB, nothing but this interpreter shares them"
    # A stopped container's health is not told by ps; the next start begins anew.
    host.ok("stop", "life")
    assert "healthy" not in host.ok("ps", "-a", "--format", "{{.Status}}")
    host.ok("start", "life")
    assert health(host, "life")["FailingStreak"] == 0
    host.ok("rm", "-f", "life")


def test_the_probe_is_like_exec(host: Rl) -> None:
    """User, environment, capabilities, streams; and how much of its output is kept, and where."""
    line = "id -u; echo $COLOR $KEY; pwd; grep -E 'CapEff|Seccomp:' /proc/self/status; ls /proc/self/fd | wc -l; yes | head -c 200000; exit 3"
    host.ok("secret", "create", "key", "-", input="hush")
    start(host, "like", "--health-cmd", line, "--health-interval=disable", "--secret=key,type=env,target=KEY", "-w", "/home/app", "--health-max-log-size=90",
          "--health-max-log-count=2", "--health-log-destination", str(host.user.home / "logs"), image="checked")
    for _ in range(3):
        assert host("healthcheck", "run", "like").returncode == 1
    found = health(host, "like")
    assert len(found["Log"]) == 2 and found["Log"][0]["ExitCode"] == 3
    output = found["Log"][0]["Output"]
    assert output.startswith("1000\nred hush\n/home/app\nCapEff:\t0000000000000000\nSeccomp:\t2\n") and len(output) == 90
    file = host.user.home / f"logs/{document(host, 'like')['Id']}-healthcheck.log"
    assert json.loads(file.read_text()) == found
    host.ok("rm", "-f", "like")
    host.ok("secret", "rm", "key")
    assert host("run", "--rm", "--network=none", "--health-cmd", '["/none"]', "busybox", "sleep", "0.2").returncode == 0
    start(host, "none", "--health-cmd", '["/no-such"]', "--health-interval=disable", "--health-log-destination=events_logger")
    assert host("healthcheck", "run", "none").returncode == 1
    [entry] = health(host, "none")["Log"]
    assert entry["ExitCode"] == 127 and "/no-such" in entry["Output"]
    assert events(host, "none")[-1]["Attributes"]["health_log"] == entry["Output"]
    host.ok("rm", "-f", "none")


@pytest.mark.parametrize("pid", ["private", "host"])
def test_timeout_ends_all_of_the_probe(host: Rl, pid: str) -> None:
    start(host, "slow", "--pid", pid, "--health-cmd", "echo begun; sleep 621 & sleep 622", "--health-interval=disable", "--health-timeout=300ms")
    assert host("healthcheck", "run", "slow").stdout == "unhealthy\n"
    [entry] = health(host, "slow")["Log"]
    assert entry["ExitCode"] == -1 and entry["Output"] == "begun\nhealth check exceeded its timeout of 0.3s"
    assert not [line for line in host.user.processes() if re.fullmatch(r"\d+ sleep 62[12]", line)]
    host.ok("rm", "-f", "slow")


def test_one_at_a_time(host: Rl) -> None:
    """Who asks while a probe is at work gets the result of that; one that dies without a word is a failure."""
    start(host, "crosses", "--health-cmd", "sleep 1.4; echo through", "--health-interval=1h")  # the monitor is replaced meanwhile
    start(host, "one", "--health-cmd", "echo x >>/tmp/count; sleep 0.5; false", "--health-interval=disable")
    askers = [host.user.popen("rl", "healthcheck", "run", "one", stdout=-3) for _ in range(3)]
    assert [asker.wait(20) for asker in askers] == [1, 1, 1]
    assert int(host.ok("exec", "one", "sh", "-c", "wc -l </tmp/count")) < 3
    host.ok("rm", "-f", "one")
    start(host, "both", "--health-cmd", "true", "--health-interval=10ms")
    for _ in range(5):  # the clock and somebody
        assert host("healthcheck", "run", "both").returncode == 0
    log = health(host, "both")["Log"]
    assert all(first["End"] < second["Start"] for first, second in itertools.pairwise(log))
    host.ok("rm", "-f", "both")
    eventually(lambda: health(host, "crosses")["Status"] == "healthy", every=0.05)
    assert [one["Output"] for one in health(host, "crosses")["Log"]] == ["through"]
    host.ok("rm", "-f", "crosses")
    start(host, "killed", "--health-cmd", "sleep 623", "--health-interval=disable")
    asker = host.user.popen("rl", "healthcheck", "run", "killed", stdout=-3)
    monitor = host.ok("inspect", "-f", "{{.State.ConmonPid}}", "killed")
    eventually(lambda: any(re.fullmatch(r"\d+ sleep 623", line) for line in host.user.processes()), every=0.02)
    children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
    probe = max(pid for pid in children if pid != host.ok("inspect", "-f", "{{.State.Pid}}", "killed"))
    os.kill(int(probe), signal.SIGKILL)
    assert asker.wait(20) == 1
    assert health(host, "killed")["Log"][-1]["Output"] == "the probe was killed"
    assert document(host, "killed")["State"]["Running"]
    eventually(lambda: not any(re.fullmatch(r"\d+ sleep 623", line) for line in host.user.processes()), every=0.02)
    host.ok("rm", "-f", "killed")


def test_start_period_and_startup_check(host: Rl) -> None:
    start(host, "period", "--health-cmd", "test -e /ok", "--health-interval=1h", "--health-start-interval=100ms", "--health-retries=1",
          "--health-start-period=1h")
    start(host, "startup", "--health-cmd", "test -e /ok", "--health-interval=100ms", "--health-retries=1",
          "--health-startup-cmd", "test -e /up && touch /ok", "--health-startup-interval=100ms", "--health-startup-success=2")
    eventually(lambda: all(len(health(host, name)["Log"] or []) > 2 for name in ("period", "startup")))
    assert [health(host, name)["Status"] for name in ("period", "startup")] == ["starting", "starting"]
    assert health(host, "period")["FailingStreak"] == 0
    assert host("healthcheck", "run", "startup").stdout == "starting\n"
    host.ok("exec", "period", "touch", "/ok")
    host.ok("exec", "startup", "touch", "/up")
    assert host.ok("wait", "--condition=healthy", "period", "startup") == "-1\n-1"
    host.ok("exec", "period", "rm", "/ok")
    assert host("healthcheck", "run", "period").returncode == 1  # there was a success: it counts
    assert health(host, "period")["Status"] == "unhealthy"
    host.ok("rm", "-f", "period", "startup")


def test_on_failure(host: Rl) -> None:
    """Also what no probe is confused with: the container's end is its own."""
    flags = ["--health-cmd", "test -e /ok", "--health-interval=100ms", "--health-retries=2", "--health-on-failure"]
    for action in ("kill", "stop", "restart", "none"):
        start(host, action, *flags, action)
    start(host, "gives-up", "--health-cmd", "true", "--health-startup-cmd", "false", "--health-startup-interval=100ms",
          "--health-startup-retries=2")
    assert host.ok("wait", "kill", "stop") == "137\n137"
    for name in ("restart", "gives-up"):
        first = document(host, name)["State"]["StartedAt"]
        eventually(lambda first=first, name=name: document(host, name)["State"]["StartedAt"] > first)
    assert health(host, "none")["Status"] == "unhealthy"
    assert document(host, "none")["State"]["Running"]
    done = host("wait", "--condition=healthy", "kill")
    assert done.returncode == 125 and "has ended before it was healthy" in done.stderr
    host.ok("rm", "-f", "-t", "0", "kill", "stop", "restart", "none", "gives-up")


def test_update(host: Rl) -> None:
    """The check of a running container: another one, other times, none, one again; and for the next start."""
    start(host, "up")
    done = host("update", "--health-interval=1s", "up")
    assert done.returncode == 125 and "without a health check" in done.stderr
    identity = host.ok("update", "--health-cmd", "test -e /ok", "--health-interval=100ms", "--health-retries=1", "up")
    assert identity == document(host, "up")["Id"]
    host.ok("wait", "--condition=unhealthy", "up")
    host.ok("update", "--health-cmd", "echo other", "up")
    host.ok("wait", "--condition=healthy", "up")
    assert health(host, "up")["Log"][-1]["Output"] == "other"
    assert document(host, "up")["Config"]["Healthcheck"]["Interval"] == SECOND // 10
    host.ok("update", "--no-healthcheck", "up")
    assert host("healthcheck", "run", "up").returncode == 125 and "healthy" not in host.ok("ps")
    host.ok("stop", "up")
    host.ok("update", "--health-cmd", "true", "--health-timeout=9s", "--health-start-period=1s", "--health-start-interval=1s",
            "--health-on-failure=kill", "--health-startup-cmd=true", "--health-startup-interval=1s", "--health-startup-retries=4",
            "--health-startup-success=1", "--health-startup-timeout=2s", "--health-log-destination=local",
            "--health-max-log-count=3", "--health-max-log-size=7", "up")
    host.ok("start", "up")
    host.ok("wait", "--condition=healthy", "up")
    assert document(host, "up")["Config"]["HealthcheckOnFailureAction"] == "kill"
    host.ok("rm", "-f", "up")


def test_paused(host: Rl) -> None:
    """Nobody is asked who cannot answer, and a probe that is caught half way says nothing. It runs in the container's cgroup."""
    with CgroupLane(host.user) as lane:
        words = "run -d --name frozen --network=none --health-interval=100ms --health-timeout=1500ms --health-retries=1 busybox sleep 1000".split()
        words[2:2] = ["--health-cmd", "cat /proc/self/cgroup; sleep 0.3"]
        assert lane.run("rl", *words).returncode == 0
        assert lane.run("rl", "wait", "--condition=healthy", "frozen").stdout == "-1\n"
        assert lane.run("rl", "pause", "frozen").returncode == 0
        before = health(host, "frozen")
        time.sleep(1.7)
        assert health(host, "frozen") == before
        done = lane.run("rl", "healthcheck", "run", "frozen")
        assert done.returncode == 125 and "is not running: it is paused" in done.stderr
        assert lane.run("rl", "unpause", "frozen").returncode == 0
        eventually(lambda: health(host, "frozen")["Log"][-1] != before["Log"][-1], every=0.05)
        assert {(one["ExitCode"], one["Output"].split("\n")[-1]) for one in health(host, "frozen")["Log"]} == {(0, "0::/")}
        assert lane.run("rl", "rm", "-f", "-t", "0", "frozen").returncode == 0


def test_ends_with_its_container(host: Rl) -> None:
    """A probe at work holds nothing up and leaves nothing behind."""
    start(host, "ends", "--pid=host", "--health-cmd", "sleep 624 & sleep 625")
    eventually(lambda: any(re.fullmatch(r"\d+ sleep 625", line) for line in host.user.processes()), every=0.02)
    began = time.monotonic()
    host.ok("rm", "-f", "-t", "0", "ends")
    assert time.monotonic() - began < 5
    assert not [line for line in host.user.processes() if re.fullmatch(r"\d+ sleep 62[45]", line)]
    assert not list((host.run_dir / "containers").iterdir())

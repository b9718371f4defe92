"""What one looks at containers with: events, stats, top, logs. Two containers run for all of these tests."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import users
from system.conftest import Rl, eventually, unique_user

#: Two lines on each stream, then busy until it is told to end.
BUSY = "echo out one; echo err one >&2; echo out two; echo err two >&2; trap 'echo bye; exit 3' TERM; while :; do :; done"


@pytest.fixture(scope="module")
def watched(busybox_archive: Path) -> Iterator[Rl]:
    """`rl` with containers: busy (running), idle (running, as user app, labelled), made (created)."""
    rl = Rl(unique_user("rltest-watch"))
    rl.ok("load", "-q", "-i", busybox_archive)
    rl.ok("run", "-d", "--name", "busy", "--network=none", "busybox", "sh", "-c", BUSY)
    rl.ok("run", "-d", "--name", "idle", "--network=none", "--label", "tier=back", "--user", "app", "busybox", "sleep", "1000")
    eventually(lambda: "out two" in rl.ok("logs", "busy"))
    rl.ok("create", "--name", "made", "busybox", "true")
    yield rl
    rl.clean()
    users.wipe(rl.user)


def started(rl: Rl, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return rl.user.popen("rl", *arguments, stdout=stdout, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


# events


def test_events_of_a_life(watched: Rl, tmp_path: Path) -> None:
    """Every change, in its order, with the exit code; to be seen at once by who waited for the change."""
    rl = watched
    began = str(time.time())
    rl.ok("run", "--network=none", "--name", "life", "--label", "a=b", "busybox", "true")
    rl.ok("start", "life")
    rl.ok("wait", "life")
    rl.ok("rm", "life")
    rl("run", "--rm", "--network=none", "--name", "life", "busybox", "false")
    rl.ok("run", "-d", "--network=none", "--name", "life", "busybox", "sleep", "100")
    rl("exec", "life", "false")
    rl.ok("kill", "--signal", "URG", "life")
    rl.ok("stop", "--time", "0", "life")
    rl.ok("rm", "life")
    seen = rl.ok("events", "--since", began, "--stream=false", "--filter", "container=life", "--format", "{{.Status}}")
    assert seen.split() == [
        "create", "init", "start", "attach", "died", "cleanup", "init", "start", "died", "cleanup", "remove",
        "create", "init", "start", "attach", "died", "cleanup", "remove",
        "create", "init", "start", "exec", "exec_died", "kill", "died", "cleanup", "stop", "remove",
    ]  # fmt: skip
    lines = rl.ok("events", "--since", began, "--stream=false", "--filter", "event=died", "--filter", "label=a=b").splitlines()
    assert len(lines) == 2
    form = r"\d{4}-\d\d-\d\d [\d:.]+ [+-]\d{4} \S+ container died [0-9a-f]{64} "
    assert re.fullmatch(form + r"\(image=docker.io/library/busybox:latest, name=life, containerExitCode=0, a=b\)", lines[0])
    short = rl.ok("events", "--since", began, "--until", "-0s", "--no-trunc=false", "-f", "event=kill")
    assert re.search(r" container kill [0-9a-f]{12} \(", short)
    codes = rl.ok("events", "--since", began, "--stream=false", "-f", "event=died", "--format", "{{.ContainerExitCode}}")
    assert codes.split() == ["0", "0", "1", "137"]


def test_events_of_images(watched: Rl, tmp_path: Path) -> None:
    rl = watched
    began = str(time.time())
    rl.ok("tag", "busybox", "mine:1")
    rl.ok("save", "-o", str(rl.user.home / "saved.tar"), "mine:1")
    rl.ok("untag", "mine:1", "mine:1")
    rl.ok("load", "-q", "-i", str(rl.user.home / "saved.tar"))
    rl.ok("rmi", "mine:1")
    (rl.user.home / "saved.tar").unlink()
    documents = [json.loads(line) for line in rl.ok(
        "events", "--since", began, "--stream=false", "--format", "json", "--filter", "type=image").splitlines()]
    found = [(document["Status"], document["Name"]) for document in documents]
    assert found == [(status, "localhost/mine:1") for status in ("tag", "save", "untag", "loadfromarchive", "untag")]
    assert all(re.fullmatch("[0-9a-f]{64}", document["ID"]) and document["timeNano"] > 1e18 for document in documents)
    assert documents[0].keys() == {"ID", "Name", "Status", "Time", "timeNano", "Type", "Attributes"}


def test_events_of_volumes(watched: Rl) -> None:
    """Those that a container brings along too."""
    rl = watched
    began = str(time.time())
    rl.ok("run", "--rm", "--network=none", "-v", "kept:/kept", "-v", "/own", "busybox", "true")
    rl.ok("volume", "rm", "kept")
    lines = rl.ok("events", "--since", began, "--stream=false", "-f", "type=volume", "--format", "{{.Status}} {{.Name}}")
    own = re.search("create ([0-9a-f]{64})", lines)
    assert own is not None
    assert lines.split("\n") == ["create kept", f"create {own[1]}", f"remove {own[1]}", "remove kept"]
    assert rl.ok("events", "--since", began, "--stream=false", "-f", "volume=kept", "--format", "{{.Status}}") == "create\nremove"


def test_events_as_they_come(watched: Rl) -> None:
    """A stream without --since shows what comes from now on, and ends at --until."""
    rl = watched
    stream = started(rl, "events", "--filter", "event=pause", "--filter", "event=start", "--format", "{{.Name}} {{.Status}}")
    limited = started(rl, "events", "--since", "0s", "--until", "2s", "--filter", "container=idle", "--format", "{{.Status}}")
    try:
        end = time.monotonic() + 10
        while "inotify" not in links(stream.pid) and time.monotonic() < end:
            time.sleep(0.01)
        rl.ok("run", "--rm", "--network=none", "--name", "shown", "busybox", "true")
        rl.ok("exec", "idle", "true")
        assert stream.stdout is not None and stream.stdout.readline() == b"shown start\n"
        out, _ = limited.communicate(timeout=10)
        assert limited.returncode == 0 and out.split() == [b"exec", b"exec_died"]
    finally:
        stream.terminate()
        stream.communicate()
        limited.kill()


def links(pid: int) -> str:
    """The files that a process has open."""
    found = ""
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found += os.readlink(f"/proc/{pid}/fd/{name}") + "\n"
    except OSError:
        pass
    return found


def test_events_go_nowhere(watched: Rl) -> None:
    rl = watched
    began = str(time.time())
    rl.ok("--events-backend=none", "run", "--rm", "--network=none", "--name", "quiet", "busybox", "true")
    conf = rl.user.home / "quiet.conf"
    conf.write_text("[engine]\nevents_logger = 'none'\n")
    quiet = {"CONTAINERS_CONF": str(conf)}
    rl.ok("run", "--rm", "--network=none", "--name", "quiet", "busybox", "true", env=quiet)
    assert rl.ok("events", "--since", began, "--stream=false", "--filter", "container=quiet") == ""
    done = rl("events", "--stream=false", env=quiet)
    assert done.returncode == 125 and 'cannot read events with the "none" backend' in done.stderr
    rl.ok("--events-backend", "file", "run", "--rm", "--network=none", "--name", "quiet", "busybox", "true", env=quiet)
    assert len(rl.ok("events", "--since", began, "--stream=false", "--filter", "container=quiet").splitlines()) == 7


# stats


def test_stats(watched: Rl) -> None:
    rl = watched
    found = json.loads(rl.ok("stats", "--no-stream", "--format", "json"))
    assert [one["name"] for one in found] == ["busy", "idle"]
    assert found[0].keys() == {"id", "name", "cpu_time", "cpu_percent", "avg_cpu", "mem_usage", "mem_percent", "net_io",
                               "block_io", "pids"}
    assert float(found[0]["cpu_percent"].rstrip("%")) > 5 > float(found[1]["cpu_percent"].rstrip("%"))
    assert found[0]["pids"] == "1"
    fields = rl.ok("stats", "--no-stream", "--format", "{{.CPUNano}} {{.MemLimit}} {{.PIDs}} {{.ContainerID}}", "busy").split()
    memory = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text()).group(1)) * 1024  # type: ignore[union-attr]
    assert int(fields[0]) > 10**7 and 0 < int(fields[1]) <= memory and fields[2] == "1" and len(fields[3]) == 64
    table = rl.ok("stats", "--no-stream", "--all").splitlines()
    assert table[0].split("  ")[0] == "ID" and "MEM USAGE / LIMIT" in table[0]
    assert [line.split()[1] for line in table[1:]] == ["busy", "idle", "made"]
    assert rl.ok("stats", "--no-stream", "--latest", "--format", "table {{.Name}}\t{{.CPUPerc}}").split() == [
        "NAME", "CPU", "%", "made", "0.00%"]
    assert len(rl.ok("stats", "--no-stream", "--no-trunc", "idle").splitlines()[1].split()[0]) == 64


def test_stats_of_a_network(watched: Rl) -> None:
    """Received and sent, by the container's own interfaces."""
    rl = watched
    rl.ok("run", "-d", "--name", "net", "busybox", "sleep", "1000")
    try:
        rl.ok("exec", "net", "sh", "-c", "for i in 1 2 3; do echo x | nc -u -w1 192.0.2.1 9 & done; wait", timeout=20)
        sent = rl.ok("stats", "--no-stream", "--format", "{{.NetOutput}}", "net")
        inside = rl.ok("exec", "net", "sh", "-c", "grep -v lo: /proc/net/dev | tail -1").split()
        assert 0 < int(sent) <= int(inside[9])
    finally:
        rl.ok("rm", "-f", "-t", "0", "net")


def test_stats_go_on(watched: Rl) -> None:
    """Until the container is removed, which is no error; on a terminal in its place, with --no-reset below."""
    rl = watched
    rl.ok("run", "-d", "--name", "brief", "--network=none", "busybox", "sleep", "1000")
    stream = started(rl, "stats", "--interval", "1", "--no-reset", "--format", "{{.Name}}", "brief")
    assert stream.stdout is not None and stream.stdout.readline() == b"brief\n"
    main, side = pty.openpty()
    live = started(rl, "stats", "-i", "1", "brief", stdout=side)
    os.close(side)
    seen = b""
    while b"brief" not in seen:
        seen += os.read(main, 4096)
    rl.ok("rm", "-f", "-t", "0", "brief")
    assert stream.wait(10) == 0 and live.wait(10) == 0
    assert b"CPU %" in seen and b"\x1b" in seen
    os.close(main)
    stream.stdout.close()


# top


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["idle"], [r"USER +PID +PPID +%CPU +ELAPSED +TTY +TIME +COMMAND", r"app +1 +0 +\S+ +\S+s +\? +\S+ +sleep 1000"]),
        (["idle", "pid", "user,comm", "state"], ["PID +USER +COMMAND +STATE", "1 +app +sleep +S"]),
        (["idle", "group", "rgroup", "ruser", "ppid", "pgid", "tty"], ["GROUP +.*", r"app +app +app +0 +1 +\?"]),
        (["idle", "capeff", "capprm", "capinh", "capamb"], ["EFFECTIVE CAPS .*", "none +none +none +none"]),
        (["idle", "capbnd"], ["BOUNDING CAPS", "(.*,)?CHOWN.*"]),
        (["idle", "seccomp", "nice", "vsz", "rss"], ["SECCOMP +NI +VSZ +RSS", r"filter +0 +\d+ +\d+"]),
        (["idle", "%C", "%a"], ["%CPU +COMMAND", r"[\d.]+ +sleep 1000"]),
        (["idle", "stime"], ["STIME", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} \S+"]),
        (["idle", "hpid", "huser", "hgroup", "hgroups", "groups"], ["HPID +HUSER +HGROUP.*", r"\d+ +\S+ +\S+ +\S+ +.*"]),
        (["idle", "-o", "pid,args"], ["PID +COMMAND", " *1 sleep 1000"]),
        (["idle", "--", "-o", "pid,args"], ["PID +COMMAND", " *1 sleep 1000"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_top(watched: Rl, arguments: list[str], lines: list[str]) -> None:
    shown = watched.ok("top", *arguments).splitlines()
    assert len(shown) == len(lines)
    for line, form in zip(shown, lines, strict=True):
        assert re.fullmatch(form, line.rstrip()), line


# logs


@pytest.mark.parametrize(
    ("arguments", "out", "err"),
    [
        (["busy"], "out one\nout two", "err one\nerr two"),
        (["--names", "busy"], "out one\nout two", "err one\nerr two"),
        (["--tail", "1", "busy"], "", "err two"),
        (["--tail", "0", "busy"], "", ""),
        (["--tail=-3", "busy"], "out one\nout two", "err one\nerr two"),
        (["--timestamps", "busy"], r"(\S{20,} out one\n)\S{20,} out two", r"\S{20,} err one\n\S{20,} err two"),
        (["--since", "1h", "--until", "1h", "busy"], "out one\nout two", "err one\nerr two"),
        (["--until=-1h", "busy"], "", ""),
        (["--since", "2100-01-01", "busy"], "", ""),
        (["--since", "1970-01-01T00:00:00Z", "--until", "2100-01-01T00:00:00.5+01:00", "busy"], ".*two", ".*two"),
        (["--names", "busy", "idle"], "busy out one\nbusy out two", "busy err one\nbusy err two"),
        (["busy", "idle"], "[0-9a-f]{12} out one\n[0-9a-f]{12} out two", "[0-9a-f]{12} err one\n[0-9a-f]{12} err two"),
        (["--color", "busy"], "\x1b\\[37mout one\x1b\\[0m\n\x1b\\[37mout two\x1b\\[0m", ".*"),
        (["--latest"], "", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_logs(watched: Rl, arguments: list[str], out: str, err: str) -> None:
    done = watched("logs", *arguments)
    assert done.returncode == 0
    assert re.fullmatch(out, done.stdout.rstrip("\n"), re.DOTALL), done.stdout
    assert re.fullmatch(err, done.stderr.rstrip("\n"), re.DOTALL), done.stderr


def test_logs_of_several_as_they_come(watched: Rl) -> None:
    """Interleaved, through rotation and a restart of one, until both have ended; nothing lost, nothing twice."""
    rl = watched
    count = "while read x; do i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $x $i; done; done"
    small = ["--log-opt", "max-size=8k", "--log-opt", "max-file=100", "--log-opt", f"path={rl.user.home}/one.log"]
    rl.ok("run", "-d", "--name", "one", "--network=none", *small, "busybox", "sh", "-c", f"echo a | {{ {count}; }}; sleep 1000")
    rl.ok("run", "-d", "--name", "two", "--network=none", "--log-driver=json-file", "busybox", "sh", "-c",
          f"echo b | {{ {count}; }}; sleep 1000")
    stream = started(rl, "logs", "--follow", "--names", "one", "two")
    eventually(lambda: rl.ok("logs", "--tail", "1", "two") == "b 300" and rl.ok("logs", "--tail", "1", "one") == "a 300")
    rl.ok("restart", "--time", "0", "one")
    eventually(lambda: rl.ok("logs", "one").count("a 300") == 2)
    rl.ok("rm", "-f", "-t", "0", "one")
    assert stream.poll() is None
    rl.ok("rm", "-f", "-t", "0", "two")
    out, _ = stream.communicate(timeout=10)
    lines = out.decode().splitlines()
    assert [line for line in lines if line.startswith("one")] == [f"one a {n}" for n in range(1, 301)] * 2
    assert [line for line in lines if line.startswith("two")] == [f"two b {n}" for n in range(1, 301)]
    for path in rl.user.home.glob("one.log*"):
        path.unlink()


def test_logs_until_a_moment_to_come(watched: Rl) -> None:
    began = time.monotonic()
    done = watched("logs", "-f", "--until", "1s", "idle")
    assert done.returncode == 0 and 0.8 < time.monotonic() - began < 8


def test_containers_conf_of_logs(watched: Rl) -> None:
    rl = watched
    conf = rl.user.home / "logs.conf"
    conf.write_text("[containers]\nlog_driver = 'json-file'\nlog_size_max = 20000\ncgroups = 'disabled'\n"
                    "[engine]\ncgroup_manager = 'cgroupfs'\n")
    mine = {"CONTAINERS_CONF": str(conf)}
    rl.ok("create", "--name", "conf", "busybox", "true", env=mine)
    rl.ok("start", "--attach", "conf", env=mine)
    found = json.loads(rl.ok("inspect", "conf"))[0]["HostConfig"]
    assert (found["LogConfig"]["Type"], found["LogConfig"]["Size"], found["Cgroups"]) == ("json-file", "20kB", "disabled")
    rl.ok("rm", "conf")
    conf.write_text("[containers]\nlog_size_max = 100\n")
    done = rl("create", "busybox", "true", env=mine)
    assert done.returncode == 125 and "log_size_max: 100 is less than 8192" in done.stderr


# wrong input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("events extra", "takes no arguments"),
        ("events --filter bogus=1", "bogus is an invalid filter"),
        ("events --filter container", "must be in the format of filter=value"),
        ("events --since yesterday", 'parsing --since "yesterday": unable to interpret time value'),
        ("events --until 2026-99-99", "unable to interpret time value"),
        ("events --format {{", "unclosed action"),
        ("events --since 1h --stream=false --format {{.Nope}}", "can't evaluate field Nope"),
        ("events --stream=maybe", "maybe"),
        ("--events-backend syslog events", "syslog"),
        ("--events-backend journald events", "no journal runs"),
        ("stats --no-stream no-such", 'no container with name or ID "no-such" found'),
        ("stats --no-stream --all busy", "cannot be used together"),
        ("stats --no-stream --latest busy", "cannot be used together"),
        ("stats --no-stream --interval 0 busy", "must be a positive number"),
        ("stats --no-stream --interval x busy", "not a whole number"),
        ("stats --no-stream --format {{.Nope}} busy", "can't evaluate field Nope"),
        ("stats --no-stream --format {{", "unclosed action"),
        ("top", "you must provide the name or id"),
        ("top no-such", 'no container with name or ID "no-such" found'),
        ("top made", "top can only be used on running containers"),
        ("top --latest", "top can only be used on running containers"),
        ("top idle -q", "executing ps(1) in the container"),
        ("top idle '", "No closing quotation"),
        ("logs", "at least one name or id"),
        ("logs no-such", 'no container with name or ID "no-such" found'),
        ("logs busy no-such", 'no container with name or ID "no-such" found'),
        ("logs --latest busy", "cannot be used together"),
        ("logs --tail x busy", "not a whole number"),
        ("logs --since soon busy", 'parsing --since "soon"'),
        ("logs --until 2026-01-01T busy", "unable to interpret time value"),
        ("create --log-driver syslog busybox", '"syslog" is not a valid value'),
        ("create --log-driver journald busybox", "no journal runs"),
        ("create --log-opt size=1m busybox", "'size' is not known"),
        ("create --log-opt mode=non-blocking busybox", "'mode' is not known"),
        ("create --log-opt max-size busybox", "invalid log option"),
        ("create --log-opt path=/no/such/dir/x busybox", "/no/such/dir is no directory"),
        ("create --log-driver none --log-opt max-file=2 busybox", "has no meaning with --log-driver=none"),
    ],
)
def test_wrong_input(watched: Rl, arguments: str, says: str) -> None:
    if "journald" in arguments and Path("/run/systemd/journal/socket").exists():
        pytest.skip("a journal runs here; tests/vm reads it")
    done = watched(*arguments.split())
    assert done.returncode == 125, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and says in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    assert len(watched.containers()) == 3


def test_nothing_to_read(watched: Rl) -> None:
    """Of a container whose output is kept nowhere."""
    watched.ok("run", "--name", "none", "--network=none", "--log-driver=none", "busybox", "echo", "x")
    done = watched("logs", "none")
    watched.ok("rm", "none")
    assert done.returncode == 125 and "this container is using the 'none' log driver, cannot read logs" in done.stderr

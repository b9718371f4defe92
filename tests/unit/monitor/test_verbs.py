"""The engine's verbs that speak to monitors: stop, kill, wait, logs, attach."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl.config.paths import Paths
from rl.engine.attach import attach
from rl.engine.context import Engine
from rl.engine.kill import kill
from rl.engine.logs import logs, records
from rl.engine.stop import stop
from rl.engine.times import flag_ns
from rl.engine.wait import wait
from rl.errors import NoSuchContainerError, StateError, UnsupportedError, UsageError
from unit.monitor.harness import Monitored, read_until

POLITE = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.02; done"


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    paths = Paths(str(tmp_path / "data"), str(tmp_path / "run"), "", "")
    paths.ensure()
    return Engine(paths)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Monitored]:
    count = iter(range(1, 1000))

    def launch(script: str, **options: Any) -> Monitored:
        m = Monitored(str(tmp_path), sh(script), container_id=f"{next(count):02x}" + "ab" * 31, attach=True, **options)
        if "ready" in script:
            read_until(m.client, b"ready")
        return m

    return launch


def test_stop(engine: Engine, start: Callable[..., Monitored]) -> None:
    """All at once; who does not obey is killed; who has ended is fine; who does not exist is told."""
    polite = [start(POLITE) for _ in range(5)]
    stubborn = start(STUBBORN, config={"stop_timeout": 60})
    ended = start("exit 0")
    ended.wait()
    began = time.monotonic()
    names = [m.id for m in polite] + [stubborn.id, ended.id, "nosuch"]
    results = stop(engine, names, time=1)
    assert 1 <= time.monotonic() - began < 3
    assert [name for name, _ in results] == names
    assert [error for _, error in results[:-1]] == [None] * 7 and isinstance(results[-1][1], NoSuchContainerError)
    assert [m.wait()["exit_code"] for m in polite] == [3] * 5 and stubborn.wait()["exit_code"] == 137
    assert stop(engine, ["nosuch"], ignore=True) == []


def test_stop_signal_and_zero_time(engine: Engine, start: Callable[..., Monitored]) -> None:
    own = start("trap 'exit 5' USR1; echo ready; while :; do sleep 0.02; done", config={"stop_signal": 10})
    assert stop(engine, [own.id]) == [(own.id, None)]
    assert own.wait()["exit_code"] == 5
    at_once = start(POLITE)
    assert stop(engine, [at_once.id], time=0) == [(at_once.id, None)]
    assert at_once.wait()["exit_code"] == 137


def test_stop_all(engine: Engine, start: Callable[..., Monitored]) -> None:
    running = [start(POLITE) for _ in range(3)]
    start("exit 0").wait()
    assert sorted(name for name, _ in stop(engine, [], all=True)) == sorted(m.id for m in running)
    for m in running:
        m.wait()


def test_kill(engine: Engine, start: Callable[..., Monitored]) -> None:
    m = start("trap 'exit 6' HUP; echo ready; while :; do sleep 0.02; done")
    assert kill(engine, [m.id], "sighup") == [(m.id, None)]
    assert m.wait()["exit_code"] == 6
    [(_, error)] = kill(engine, [m.id])
    assert isinstance(error, StateError)
    assert f"can only kill running containers. {m.id} is in state exited: container state improper" in str(error)
    with pytest.raises(UsageError):
        kill(engine, [m.id], "NOPE")


def test_wait(engine: Engine, start: Callable[..., Monitored]) -> None:
    first, second, gone = start("sleep 0.3; exit 4"), start("exit 9"), start("sleep 0.3; exit 2", remove=True)
    second.wait()
    assert wait(engine, [second.id, first.id]) == [9, 4]
    try:
        assert wait(engine, [gone.id]) == [2]
    except NoSuchContainerError:  # a container of --rm that was faster
        gone.wait()
        assert not os.path.exists(gone.data)
    assert wait(engine, ["nosuch"], ignore=True) == [-1]
    with pytest.raises(NoSuchContainerError):
        wait(engine, [first.id, "nosuch"])
    with pytest.raises(UsageError):
        wait(engine, [first.id], condition=["flying"])
    running = start(POLITE)
    assert wait(engine, [running.id], condition=["running"]) == [-1]
    killer = threading.Timer(0.2, os.kill, (running.pid, 9))
    killer.start()
    assert wait(engine, [running.id]) == [137]  # the monitor was killed: the record is corrected
    for m in (first, gone):
        m.wait()
    os.waitpid(running.pid, 0)


def test_logs(engine: Engine, start: Callable[..., Monitored]) -> None:
    m = start("for n in 1 2 3; do echo out $n; done; echo err >&2; printf end", log={"max_size": 100, "max_file": 50})
    m.wait()
    got = list(records(engine, [m.id]))
    assert b"".join(data for _, stream, _, data in got if stream == "stdout") == b"out 1\nout 2\nout 3\nend"
    assert [data for _, stream, _, data in got if stream == "stderr"] == [b"err\n"]
    assert list(records(engine, [m.id], since="1h")) == got and list(records(engine, [m.id], until="-1h")) == []
    assert list(records(engine, [m.id], since=got[-1][2]))[-1] == got[-1]
    assert written(engine, [m.id], names=True, timestamps=True).startswith(got[0][2].replace("+00:00", "Z").encode())
    with pytest.raises(UsageError):
        list(records(engine, [m.id], since="yesterday"))
    silent = start("exit 0", log={"driver": "none"})
    silent.wait()
    with pytest.raises(UnsupportedError):
        list(records(engine, [silent.id]))
    assert list(records(engine, [m.id], follow=True)) == got  # it has ended


def written(engine: Engine, containers: list[str], **options: Any) -> bytes:
    out = os.memfd_create("out")
    logs(engine, containers, options, out, out)
    data = os.pread(out, os.fstat(out).st_size, 0)
    os.close(out)
    return data


def test_logs_follow(engine: Engine, start: Callable[..., Monitored]) -> None:
    """Through rotations, of two containers at once, until both have ended."""
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; sleep 0.1; echo over"
    both = [start(script, log={"max_size": 2000, "max_file": 500}) for _ in range(2)]
    for m in both:
        m.client.close()
    found: dict[str, bytes] = {}
    for name, _, _, data in records(engine, [m.id for m in both], follow=True):
        found[name] = found.get(name, b"") + data
    expected = b"".join(b"line %d\n" % n for n in range(1, 2001)) + b"over\n"
    assert list(found.values()) == [expected, expected]
    for m in both:
        m.wait()


def test_logs_follow_until(engine: Engine, start: Callable[..., Monitored]) -> None:
    m = start("while :; do echo tick; sleep 0.05; done")
    m.client.close()
    began = time.monotonic()
    assert list(records(engine, [m.id], follow=True, until=str(time.time() + 0.5)))
    assert 0.3 < time.monotonic() - began < 3
    stop(engine, [m.id], time=0)
    m.wait()


def test_logs_reader_goes_away(engine: Engine, start: Callable[..., Monitored]) -> None:
    m = start("seq 1 50000")
    while m.client.recv(1 << 17)[0] != 4:
        pass
    m.wait()
    r, w = os.pipe()
    os.close(r)
    with pytest.raises(BrokenPipeError):
        logs(engine, [m.id], {}, w, w)
    os.close(w)


@pytest.mark.parametrize(
    ("text", "ago"), [("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("100ms", 0.1), ("1m1s", 61)]
)
def test_moment_durations(text: str, ago: float) -> None:
    assert abs(time.time_ns() - flag_ns("since", text) - ago * 1e9) < 5e8
    assert abs(flag_ns("until", text, ahead=True) - time.time_ns() - ago * 1e9) < 5e8
    assert abs(time.time_ns() - flag_ns("until", f"-{text}", ahead=True) - ago * 1e9) < 5e8


def test_moment() -> None:
    assert (
        flag_ns("since", "2024-01-31T12:00:00Z")
        == flag_ns("since", "1706702400")
        == flag_ns("until", "2024-01-31T13:00:00+01:00", ahead=True)
        == 1706702400 * 10**9
    )
    assert flag_ns("since", "2024-01-31Z") == 1706659200 * 10**9
    assert flag_ns("since", "") == 0
    for bad in ("m", "10x", "1h30", "x10m", "yesterday", "2024-13-01T00:00:00Z", "-", "--1m", "2024-01-31T03:00", "1.2.3"):
        with pytest.raises(UsageError, match="unable to interpret time value"):
            flag_ns("since", bad)


def test_attach(engine: Engine, start: Callable[..., Monitored]) -> None:
    m = start("echo ready; read x; echo got $x; exit 7", stdin=True)
    r, w = os.pipe()
    os.write(w, b"word\n")
    out = os.memfd_create("out")
    assert attach(engine, m.id, stdin=r, stdout=out, stderr=out) == 7
    assert os.pread(out, 100, 0) == b"got word\n"
    m.wait()
    with pytest.raises(StateError, match="you can only attach to running containers"):
        attach(engine, m.id)
    for fd in (r, w, out):
        os.close(fd)

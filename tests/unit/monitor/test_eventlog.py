"""The log of events: many writers, rotation while it is followed, a full disk, what a reader makes of torn lines."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.config.model import EventLog
from rl.config.paths import Paths
from rl.engine import events as told
from rl.engine import eventstream, eventstream_journald
from rl.engine.context import Engine
from rl.errors import RlError, UnsupportedError, UsageError
from rl.monitor import eventlog, eventlog_journald, logs_journald


def at(tmp_path: Path, limit: int = 1 << 20) -> EventLog:
    return {"backend": "file", "path": str(tmp_path / "events/events.log"), "limit": limit}


def names(log: EventLog) -> list[str]:
    reader = eventstream.Reader(log["path"])
    found = [event["Name"] for event in reader.read()]
    reader.close()
    return found


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    paths.ensure()
    told.use("")
    yield Engine(paths)
    told.use("")


def write_many(log: EventLog, who: int, count: int) -> None:
    for number in range(count):
        eventlog.write(log, [eventlog.event("container", "start", "f" * 64, f"{who}-{number}")])


def test_many_writers_and_a_follower_across_rotations(tmp_path: Path) -> None:
    """Each event is seen once, in its writer's order, though the file is renamed every 40 of them."""
    log = at(tmp_path, 8000)
    seen: list[str] = []
    writers, each = 4, 300

    def follow() -> None:
        for event in eventstream._read_file(log["path"], True, time.time_ns() + 20 * 10**9):
            seen.append(event["Name"])
            if len(seen) == writers * each:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    context = multiprocessing.get_context("fork")
    # One at a time writes more than a reader may be behind (two files); so they wait for each other.
    for first in range(0, each, 5):
        group = [context.Process(target=write_slice, args=(log, who, first)) for who in range(writers)]
        for process in group:
            process.start()
        for process in group:
            process.join()
        deadline = time.monotonic() + 10
        while len(seen) < writers * (first + 5) and time.monotonic() < deadline:
            time.sleep(0.001)
    follower.join(20)
    assert len(seen) == writers * each
    for who in range(writers):
        assert [name for name in seen if name.startswith(f"{who}-")] == [f"{who}-{n}" for n in range(each)]
    # Writers that looked at the size at the same time may each add one more.
    assert all(os.path.getsize(log["path"] + end) < 8000 + writers * 250 for end in ("", ".1"))
    assert sorted(os.listdir(tmp_path / "events")) == ["events.log", "events.log.1", "events.log.lost"]


def write_slice(log: EventLog, who: int, first: int) -> None:
    for number in range(first, first + 5):
        eventlog.write(log, [eventlog.event("container", "start", "f" * 64, f"{who}-{number}")])
    os._exit(0)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    log = at(tmp_path)
    context = multiprocessing.get_context("fork")
    group = [context.Process(target=write_many, args=(log, who, 200)) for who in range(6)]
    for process in group:
        process.start()
    for process in group:
        process.join()
    assert sorted(names(log)) == sorted(f"{who}-{number}" for who in range(6) for number in range(200))


def test_an_event_is_cheap(tmp_path: Path) -> None:
    """0.1 ms is the budget of `rl run`; a slow moment of the machine is not the code's."""
    log = at(tmp_path)
    best = 1.0
    for _ in range(50):
        began = time.perf_counter()
        eventlog.write(log, [eventlog.event("container", "start", "f" * 64, "name", {"image": "i"}, {"a": "b"})])
        best = min(best, time.perf_counter() - began)
    assert best < 0.0002


def test_a_full_disk_loses_events_and_counts_them(tmp_path: Path) -> None:
    log = at(tmp_path)
    write_many(log, 1, 1)
    size = os.path.getsize(log["path"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))  # 40 bytes of the next event still fit
        write_many(log, 2, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert eventlog.lost(log["path"]) == 3
    write_many(log, 3, 2)
    assert names(log) == ["1-0", "3-0", "3-1"], "the torn line took another with it"


def test_an_event_never_fails_a_command(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("in the way of the directory")
    write_many(at(tmp_path), 1, 1)
    (tmp_path / "events").unlink()
    (tmp_path / "events").mkdir()
    os.symlink("/etc/passwd", tmp_path / "events/events.log")  # it is not followed
    write_many(at(tmp_path), 1, 1)
    eventlog.write({"backend": "none", "path": "", "limit": 0}, [eventlog.event("a", "b", "c", "d")])
    eventlog.write({"backend": "journald", "path": "", "limit": 0}, [eventlog.event("a", "b", "c", "d")])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b'{"Time": "x", "timeNano": 1, "Type": "t", "Status": "s", "ID": "", "Name": "n"}', "n"),
        (b'{"Time": "x", "timeN{"Time": "x", "timeNano": 1, "Type": "t", "Status": "s", "ID": "", "Name": "n"}', "n"),
        (b'{"Time": "x", "timeNano": 1, "Type": "t"}', None),
        (b'{"Time": "x", "timeNano": "1", "Type": "t", "Status": "s", "ID": "", "Name": "n"}', None),
        (b'{"Time": "x"', None),
        (b"[]", None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_damaged_lines(line: bytes, name: str | None) -> None:
    event = eventstream.parse(line)
    assert (event["Name"] if event else None) == name


def test_fields_and_attributes() -> None:
    event = eventlog.event(
        "container", "died", "1" * 64, "n", {"image": "i", "containerExitCode": "3", "signal": "9"},
        {"image": "a label", "containerExitCode": "one too"},
    )
    assert (event["Image"], event["ContainerExitCode"]) == ("i", 3)
    assert event["Attributes"] == {"image": "a label", "containerExitCode": "one too", "signal": "9"}
    assert json.loads(json.dumps(event))["timeNano"] == event["timeNano"]


EVENTS: tuple[tuple[str, str, str, str, dict[str, str], dict[str, str]], ...] = (
    ("container", "create", "aa11", "web", {"image": "docker.io/library/nginx:latest"}, {"tier": "front", "x": ""}),
    ("container", "died", "aa11", "web", {"image": "docker.io/library/nginx:latest", "containerExitCode": "1"}, {}),
    ("container", "start", "bb22", "db", {"image": "localhost/pg:15", "podId": "dd44"}, {"tier": "back"}),
    ("image", "pull", "cc33", "docker.io/library/nginx:latest", {}, {}),
    ("volume", "create", "", "data", {}, {}),
    ("pod", "create", "dd44", "podl", {}, {}),
    ("secret", "create", "ee55", "key", {}, {}),
    ("network", "connect", "aa11", "", {"network": "net1"}, {}),
)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["container=web"], [0, 1]),
        (["container=aa"], [0, 1]),
        (["container="], []),
        (["container=web", "container=db"], [0, 1, 2]),
        (["event=die"], [1]),
        (["event=DIED", "event=start"], [1, 2]),
        (["status=create", "type=volume"], [4]),
        (["image=nginx"], [3]),
        (["image=docker.io/library/nginx:latest"], [3]),
        (["image=inx"], []),
        (["image=nginx:1"], []),
        (["image=cc3"], [3]),
        (["image="], []),
        (["label=tier"], [0, 2]),
        (["label=tier=front"], [0]),
        (["label=tier=front", "label=tier=back"], [0, 2]),
        (["label=x="], [0]),
        (["volume=data"], [4]),
        (["pod=podl"], [5]),
        (["pod=dd44"], [2, 5]),
        (["secret=key"], [6]),
        (["network=net1"], [7]),
        (["type=container", "type=image", "event=pull"], [3]),
        (["event=nosuch"], []),
    ],
)
def test_filters(filters: list[str], found: list[int]) -> None:
    tests = eventstream.tests(filters)
    events = [eventlog.event(*one) for one in EVENTS]
    assert [index for index, event in enumerate(events) if all(test(event) for test in tests)] == found


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"filter": ["bogus=1"]}, "bogus is an invalid filter"),
        ({"filter": ["container"]}, "must be in the format of filter=value"),
        ({"since": "soon"}, 'parsing --since "soon"'),
        ({"until": "2026-13-01"}, "parsing --until"),
    ],
)
def test_wrong_options(engine: Engine, options: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        list(eventstream.events(engine, options))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[engine]\nevents_logger = 'file'\nevents_logfile_path = '{}/here.log'\nevents_logfile_max_size = '2k'\n", ""),
        ("[engine]\nevents_logger = 'none'\n", "cannot read events with the"),
        ("[engine]\nevents_logger = 'journal'\n", "'journal' is not known"),
        ("[engine]\nevents_logfile_max_size = 'big'\n", "is not a size"),
    ],
)
def test_containers_conf(engine: Engine, tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "containers.conf").write_text(text.replace("{}", str(tmp_path)))
    for number in range(40):
        told.emit(engine.paths, "volume", "create", "", f"v{number}")
    if error:
        with pytest.raises(RlError, match=error):
            list(eventstream.events(engine, {"stream": False}))
        return
    found = [event["Name"] for event in eventstream.events(engine, {"stream": False})]
    assert found[-1] == "v39" and 10 < len(found) < 40
    assert os.path.getsize(tmp_path / "here.log") <= 2048


def test_until_ends_a_stream(engine: Engine) -> None:
    told.emit(engine.paths, "volume", "create", "", "before")
    began = time.monotonic()
    found = []
    for event in eventstream.events(engine, {"since": "1m", "until": "0.3s"}):
        if event["Name"] == "before":
            told.emit(engine.paths, "volume", "create", "", "after")
        found.append(event["Name"])
    assert found == ["before", "after"]
    assert 0.2 < time.monotonic() - began < 5


class Journal:
    """What stands in for the journal's socket, and for journalctl."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "socket"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)
        monkeypatch.setattr(logs_journald, "SOCKET", str(path))
        program = tmp_path / "journalctl"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat {tmp_path}/export\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        self.directory = tmp_path


def test_journald_there_and_back(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman's field names; the export format read back, with a value of several lines."""
    journal = Journal(tmp_path, monkeypatch)
    told.use("journald")
    told.emit_all(engine.paths, [eventlog.event(*one) for one in EVENTS[:2]])
    told.emit(engine.paths, "volume", "create", "", "two\nlines")
    entries = [journal.socket.recv(1 << 16) for _ in range(3)]
    assert b"PODMAN_EVENT=died\n" in entries[1] and b"PODMAN_EXIT_CODE=1\n" in entries[1]
    assert b"SYSLOG_IDENTIFIER=rl\n" in entries[0] and b'PODMAN_LABELS={"tier": "front", "x": ""}\n' in entries[0]
    (tmp_path / "export").write_bytes(b"".join(b"__CURSOR=c\n" + entry + b"\n" for entry in entries))
    found = list(eventstream.events(engine, {"stream": False, "since": "1h"}))
    assert [event["Name"] for event in found] == ["web", "web", "two\nlines"]
    assert found[0]["Attributes"] == {"tier": "front", "x": ""} and found[1]["ContainerExitCode"] == 1
    arguments = (tmp_path / "arguments").read_text()
    assert f"SYSLOG_IDENTIFIER={eventlog_journald.IDENTIFIER} _UID={os.getuid()}" in arguments
    assert "--follow" not in arguments and "--since=@" in arguments
    assert [event["Status"] for event in eventstream.events(engine, {"since": "1h", "until": "2s"})][:1] == ["create"]
    assert "--follow" in (tmp_path / "arguments").read_text()


def test_an_event_longer_than_a_datagram(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, monkeypatch)
    told.use("journald")
    told.emit(engine.paths, "volume", "create", "", "x" * 500_000)
    _, rights, _, _ = socket.recv_fds(journal.socket, 10, 1)
    with open(rights[0], "rb") as file:
        assert os.fstat(file.fileno()).st_size > 500_000


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_the_export_format_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    entry = b"PODMAN_TIME=2026-01-01T00:00:00.5Z\nPODMAN_TYPE=volume\nPODMAN_EVENT=create\nPODMAN_ID=\n"
    entry += logs_journald.field("PODMAN_NAME", "a\nb\n\nc")
    data = (entry + b"\n") * 3
    reader, writer = os.pipe()

    def feed() -> None:
        for begin in range(0, len(data), cut):
            os.write(writer, data[begin : begin + cut])
            time.sleep(0)
        os.close(writer)

    thread = threading.Thread(target=feed)
    thread.start()
    found = list(eventstream_journald._events(reader, 0))
    thread.join()
    os.close(reader)
    assert [event["Name"] for event in found] == ["a\nb\n\nc"] * 3
    assert found[0]["timeNano"] == 1767225600_500_000_000


def test_no_journal(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_journald, "SOCKET", str(tmp_path / "none"))
    told.use("journald")
    told.emit(engine.paths, "volume", "create", "", "lost")
    with pytest.raises(UnsupportedError, match="no journal runs on this host"):
        list(eventstream.events(engine, {"stream": False}))


def test_the_monitor_imports_little(tmp_path: Path) -> None:
    """What the lean monitor loads for its last words: nothing that it has not, but fcntl."""
    import subprocess
    import sys

    code = "import sys; sys.path.insert(0, sys.argv[1]); from rl.monitor import eventlog; print(*sys.modules)"
    root = str(Path(eventlog.__file__).parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True)
    assert not {"os", "json", "socket", "re", "typing", "ctypes"} & set(done.stdout.split()) - _at_start()


def _at_start() -> set[str]:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())

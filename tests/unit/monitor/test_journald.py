"""The journald log driver, against a socket that stands in for the journal's; the real journal is in tests/vm."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.engine.spec import logs
from rl.errors import RlError, UnsupportedError, UsageError
from rl.monitor import logs_journald
from rl.monitor.logs import open_log

ID = "0123456789abcdef" * 4


class Receiver:
    """What journald does with its socket: takes datagrams, or files in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = 0
        self.listen()

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(5)

    def entry(self) -> dict[str, bytes]:
        data, rights, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        for fd in rights:
            self.files += 1
            assert fcntl.fcntl(fd, 1034) == 0xF, "not sealed: the journal would refuse it"  # F_GET_SEALS
            data = os.pread(fd, 1 << 24, 0)
            os.close(fd)
        return parse(data)

    def entries(self) -> list[dict[str, bytes]]:
        """All that wait."""
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.entry())
        except BlockingIOError:
            self.socket.settimeout(5)
            return found


def parse(data: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        assert name.decode() not in fields
        fields[name.decode()] = value
    return fields


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(logs_journald, "SOCKET", str(tmp_path / "socket"))
    receiver = Receiver(tmp_path / "socket")
    yield receiver
    receiver.socket.close()


def opened(**more: Any) -> Any:
    return open_log({"driver": "journald", "id": ID, "name": "web", **more})  # type: ignore[typeddict-item]


def test_fields_are_those_of_conmon(journal: Receiver) -> None:
    log = opened()
    log.write(1, b"out\n")
    log.write(2, b"err\n")
    common = {"CONTAINER_ID_FULL": ID.encode(), "CONTAINER_ID": ID[:12].encode(), "CONTAINER_NAME": b"web",
              "SYSLOG_IDENTIFIER": b"web"}
    assert journal.entry() == {"MESSAGE": b"out", "PRIORITY": b"6", **common}
    assert journal.entry() == {"MESSAGE": b"err", "PRIORITY": b"3", **common}


def test_tag_and_labels(journal: Receiver) -> None:
    log = opened(tag="shop", labels={"APP": "one\ntwo", "VERSION": "3"})
    log.write(1, b"x\n")
    entry = journal.entry()
    assert (entry["CONTAINER_TAG"], entry["SYSLOG_IDENTIFIER"]) == (b"shop", b"shop")
    assert (entry["APP"], entry["VERSION"]) == (b"one\ntwo", b"3")


def test_lines_in_any_pieces(journal: Receiver) -> None:
    """An entry is a whole line, whatever reads gave; bytes stay as they were."""
    whole = b"one\n\ntwo \xff\x00\r\nand MESSAGE=three\n"
    log = opened()
    for at in range(len(whole)):
        log.write(1, whole[at : at + 1])
    found = journal.entries()
    assert b"".join(entry["MESSAGE"] + b"\n" for entry in found) == whole
    assert not any("CONTAINER_PARTIAL_MESSAGE" in entry for entry in found)


def test_a_line_that_does_not_end(journal: Receiver) -> None:
    log = opened()
    log.write(1, b"prompt> ")
    assert journal.entries() == []
    other = opened()
    other.take(log.carry())  # the monitor replaces itself in the middle of the line
    other.write(1, b"x" * logs_journald.HELD)
    other.write(1, b"end\nrest")
    other.close()
    found = [(entry["MESSAGE"], entry.get("CONTAINER_PARTIAL_MESSAGE")) for entry in journal.entries()]
    assert found == [(b"prompt> " + b"x" * logs_journald.HELD, b"true"), (b"end", None), (b"rest", b"true")]


def test_an_entry_too_long_for_a_datagram(journal: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_journald, "_BUFFER", 100_000)
    log = opened(labels={"BIG": "y" * 500_000})
    log.write(1, b"hello\n")
    entry = journal.entry()
    assert journal.files == 1 and entry["MESSAGE"] == b"hello" and len(entry["BIG"]) == 500_000


def test_a_stuck_journal_holds_nobody_up(journal: Receiver) -> None:
    """One wait, then lines are dropped at once and counted, until the journal takes one again."""
    log = opened()
    start = time.monotonic()
    for n in range(5000):
        log.write(1, b"line %d\n" % n)
    assert time.monotonic() - start < logs_journald.PATIENCE + 3
    taken = journal.entries()
    assert log.lost == sum(len(b"line %d\n" % n) for n in range(len(taken), 5000)) > 0
    assert [entry["MESSAGE"] for entry in taken] == [b"line %d" % n for n in range(len(taken))]
    log.write(1, b"again\n")
    assert journal.entry()["MESSAGE"] == b"again"


def test_a_slow_journal_loses_nothing(journal: Receiver) -> None:
    pid = os.fork()
    if pid == 0:
        log = opened()
        for n in range(2000):
            log.write(1, b"line %d\n" % n)
        os._exit(1 if log.lost else 0)
    found = []
    for n in range(2000):
        found.append(journal.entry()["MESSAGE"])
        if n % 200 == 0:
            time.sleep(0.05)
    assert found == [b"line %d" % n for n in range(2000)] and os.waitpid(pid, 0)[1] == 0


def test_a_new_journal(journal: Receiver) -> None:
    """The socket was made anew: nothing is lost but what came between."""
    log = opened()
    log.write(1, b"before\n")
    assert journal.entry()["MESSAGE"] == b"before"
    journal.socket.close()
    log.write(1, b"between\n")
    assert log.lost == len(b"between\n")
    journal.listen()
    log.write(1, b"after\n")
    assert journal.entry()["MESSAGE"] == b"after"


def test_the_end_waits_for_the_journal(journal: Receiver) -> None:
    """Who learns of the container's end finds its last line: close() returns when everything was read."""
    pid = os.fork()
    if pid == 0:
        time.sleep(0.3)
        journal.entry()
        os._exit(0)
    log = opened()
    log.write(1, b"last\n")
    start = time.monotonic()
    log.close()
    assert 0.2 < time.monotonic() - start < logs_journald.PATIENCE
    assert os.waitpid(pid, 0)[1] == 0


def test_no_journal_is_an_error_at_create(journal: Receiver) -> None:
    assert logs.log_config("/x", {"log_driver": "journald"})["driver"] == "journald"
    for remove in (False, True):  # nobody listens; no socket
        journal.socket.close()
        if remove:
            journal.path.unlink()
        with pytest.raises(UnsupportedError, match="no journal runs") as caught:
            logs.log_config("/x", {"log_driver": "journald"})
        assert "--log-driver" in caught.value.hint


@pytest.mark.parametrize(
    ("driver", "option", "said"),
    [
        ("journald", "max-size=10m", "max-size"), ("journald", "path=/x", "path"), ("journald", "colour=red", "colour"),
        ("journald", "label=lower=1", "lower"), ("journald", "label=_UID=0", "_UID"), ("journald", "label=NOVALUE", "NOVALUE"),
        ("journald", "label=MESSAGE=x", "MESSAGE"), ("journald", "label=1A=x", "1A"), ("k8s-file", "tag=x", "journald"),
        ("json-file", "label=A=b", "journald"), ("none", "nonsense=1", "nonsense"),
    ],
)  # fmt: skip
def test_wrong_options(journal: Receiver, driver: str, option: str, said: str) -> None:
    with pytest.raises(RlError, match=said) as caught:
        logs.log_config("/x", {"log_driver": driver, "log_opt": [option]})
    assert isinstance(caught.value, UsageError)


def test_options_are_taken(journal: Receiver) -> None:
    options = {"log_driver": "journald", "log_opt": ["tag=shop", "label=A=1", "label=B_2=x=y"]}
    log = logs.log_config("/x", options)
    assert (log["tag"], log["labels"], log["path"]) == ("shop", {"A": "1", "B_2": "x=y"}, "")

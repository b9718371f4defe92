"""Log files: the formats, rotation under load, reading while it happens, a full disk."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from rl.config.signals import parse_signal, signal_name
from rl.errors import UsageError
from rl.monitor.logread import LogReader
from rl.monitor.logs import open_log
from rl.monitor.logs_json import incomplete

DRIVERS = pytest.mark.parametrize("driver", ["k8s-file", "json-file"])


def opened(tmp_path: Path, driver: str, **options: int):  # type: ignore[no-untyped-def]
    path = str(tmp_path / "ctr.log")
    return open_log({"driver": driver, "path": path, **options}), path  # type: ignore[typeddict-item]


def content(path: str, driver: str, stream: str = "stdout") -> bytes:
    reader = LogReader(path, driver)
    data = b"".join(text for name, _, text in reader.read() if name == stream)
    reader.close()
    return data


@DRIVERS
def test_any_bytes_in_any_pieces(tmp_path: Path, driver: str) -> None:
    """What is read is what was written, whatever it was cut into."""
    generator = random.Random(7)
    text = "grüße €uro 𝄞\n".encode()
    whole = b"".join(
        generator.choice([text, b"\n", b"\xff\xfe\x00", b"x" * 999, b"\r\n", b'\\n"stream":', text[:-1]])
        for _ in range(400)
    )
    log, path = opened(tmp_path, driver)
    at = 0
    while at < len(whole):
        size = generator.choice([1, 2, 3, 50, 4000])
        log.write(1, whole[at : at + size])
        log.write(2, b"noise\n")
        at += size
    log.close()
    assert content(path, driver) == whole


def test_json_file_is_docker_format(tmp_path: Path) -> None:
    log, path = opened(tmp_path, "json-file")
    log.write(1, b'one "quoted"\ntwo')
    log.write(2, "ü\n".encode())
    log.close()
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert [(r["log"], r["stream"]) for r in lines] == [
        ('one "quoted"\n', "stdout"),
        ("two", "stdout"),
        ("ü\n", "stderr"),
    ]
    assert all(r["time"].endswith("Z") and len(r["time"]) == 30 for r in lines)


@pytest.mark.parametrize(
    ("data", "held"),
    [(b"", 0), (b"a", 0), ("é".encode(), 0), ("é".encode()[:1], 1), ("€".encode()[:2], 2), ("𝄞".encode()[:3], 3),
     ("𝄞".encode(), 0), (b"\x80\x80\x80\x80", 0), (b"a\xff", 1)],
)  # fmt: skip
def test_incomplete(data: bytes, held: int) -> None:
    assert incomplete(data) == held


@DRIVERS
def test_rotation_is_lossless(tmp_path: Path, driver: str) -> None:
    log, path = opened(tmp_path, driver, max_size=4096, max_file=1000)
    expected = b""
    for n in range(3000):
        data = b"line %d of many\n" % n
        log.write(1, data)
        expected += data
    log.close()
    sizes = [entry.stat().st_size for entry in os.scandir(tmp_path)]
    assert len(sizes) > 10 and max(sizes) <= 4096 and min(sorted(sizes)[1:]) > 3800
    assert content(path, driver) == expected


def test_one_write_larger_than_a_file(tmp_path: Path) -> None:
    log, path = opened(tmp_path, "k8s-file", max_size=1000, max_file=1000)
    data = b"".join(b"%d\n" % n for n in range(5000)) + b"y" * 5000 + b"\nend\n"
    log.write(1, data)
    log.close()
    assert content(path, "k8s-file") == data


@pytest.mark.parametrize("files", [1, 2, 3])
def test_number_of_files(tmp_path: Path, files: int) -> None:
    log, _ = opened(tmp_path, "k8s-file", max_size=500, max_file=files)
    for n in range(200):
        log.write(1, b"line %d\n" % n)
    log.close()
    assert len(os.listdir(tmp_path)) == files


def test_torn_record_is_closed(tmp_path: Path) -> None:
    (tmp_path / "ctr.log").write_bytes(b"2026-01-01T00:00:00Z stdout F whole\n2026-01-01T00:0")
    log, path = opened(tmp_path, "k8s-file")
    log.write(1, b"next\n")
    log.close()
    assert content(path, "k8s-file") == b"whole\nnext\n"


def test_disk_full(tmp_path: Path) -> None:
    """Complete records stay, the rest is counted, and it goes on when there is room (EFBIG stands in for ENOSPC)."""
    log, path = opened(tmp_path, "k8s-file")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        for n in range(400):
            log.write(1, b"line %d\n" % n)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log.lost > 0
    log.write(1, b"room again\n")
    log.close()
    lines = content(path, "k8s-file").splitlines()
    assert lines[-1] == b"room again" and lines[:-1] == [b"line %d" % n for n in range(len(lines) - 1)]


@DRIVERS
def test_reading_while_it_rotates(tmp_path: Path, driver: str) -> None:
    log, path = opened(tmp_path, driver, max_size=20_000, max_file=500)
    expected = [b"line %d\n" % n for n in range(20_000)]
    done = threading.Event()

    def write() -> None:
        for at in range(0, len(expected), 10):
            log.write(1, b"".join(expected[at : at + 10]))
        log.close()
        done.set()

    reader = LogReader(path, driver)
    writer = threading.Thread(target=write)
    writer.start()
    found: list[bytes] = []
    while not done.is_set():
        found += [text for _, _, text in reader.read()]
        time.sleep(0.002)
    found += [text for _, _, text in reader.read()]
    writer.join()
    reader.close()
    assert found == expected


@DRIVERS
@pytest.mark.parametrize("count", [0, 1, 2, 15, 299, 300, 301, 10_000])
def test_tail(tmp_path: Path, driver: str, count: int) -> None:
    log, path = opened(tmp_path, driver, max_size=5000, max_file=1000)
    lines = [b"line %d" % n + b"x" * (n % 50) + b"\n" for n in range(299)] + [b"unfinished"]
    for line in lines[:-1]:
        log.write(1, line[:3])
        log.write(1, line[3:])
    log.write(1, lines[-1])
    log.close()
    reader = LogReader(path, driver)
    reader.tail(count)
    got = b"".join(text for _, _, text in reader.read())
    reader.close()
    # A line in two records may come with its second one only: compare the ends.
    expected = b"".join(lines[len(lines) - count :] if count < len(lines) else lines) if count else b""
    assert expected.endswith(got) and len(expected) - len(got) <= 3


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigkill", 9),
        ("9", 9),
        (2, 2),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmax-1", 63),
        ("64", 64),
    ],
)
def test_parse_signal(text: str | int, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "65", "-1", "SIG", "FOO", "RTMIN+31", "RTMIN-1", "RTMIN+", "TERM+1", "SIG9", "_DFL", "SIG_IGN", "²"],
)
def test_parse_signal_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        parse_signal(text)


def test_signal_name() -> None:
    assert [signal_name(n) for n in (15, 9, 17, 29, 34, 37)] == [
        "SIGTERM",
        "SIGKILL",
        "SIGCHLD",
        "SIGIO",
        "SIGRTMIN",
        "SIGRTMIN+3",
    ]

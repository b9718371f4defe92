"""rl.monitor.terminal: detach keys, raw mode, window size."""

from __future__ import annotations

import os
import termios

import pytest

from rl.errors import UsageError
from rl.monitor import terminal


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-a,b,ctrl-@", b"\x01b\x00"),
        ("ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x1b\x1c\x1d\x1e\x1f"),
        ("q", b"q"),
        ("A,1,-", b"A1-"),
        ("", b""),
    ],
)
def test_parse(text: str, keys: bytes) -> None:
    assert terminal.parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-P", "ctrl-ab", "ab", "ctrl-p,", ",", "é", "ctrl-1", "\n"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        terminal.parse_detach_keys(text)
    assert "ctrl-" in caught.value.hint


@pytest.mark.parametrize(
    ("keys", "reads", "passed", "detached"),
    [
        (None, [b"ls\n"], b"ls\n", False),
        (None, [b"\x10", b"\x11"], b"", True),
        (None, [b"a\x10\x11b"], b"a", True),
        (None, [b"\x10", b"x"], b"\x10x", False),
        (None, [b"\x10", b"\x10", b"\x11"], b"\x10", True),
        (None, [b"\x11\x10"], b"\x11", False),  # ctrl-p waits for what comes next
        ("a,a,b", [b"a", b"a", b"a", b"b"], b"a", True),
        ("", [b"\x10\x11"], b"\x10\x11", False),
        ("q", [b"xqy"], b"x", True),
    ],
)
def test_scanner(keys: str | None, reads: list[bytes], passed: bytes, detached: bool) -> None:
    scanner = terminal.DetachKeys(keys)
    out, done = b"", False
    for data in reads:
        part, done = scanner.feed(data)
        out += part
    assert (out, done) == (passed, detached)


def test_raw_mode_restores() -> None:
    master, slave = os.openpty()
    try:
        before = termios.tcgetattr(slave)
        with terminal.RawMode(slave) as mode:
            assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
            mode.restore()
            assert termios.tcgetattr(slave) == before
        with pytest.raises(KeyError), terminal.RawMode(slave):
            raise KeyError
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_no_terminal() -> None:
    r, w = os.pipe()
    try:
        with terminal.RawMode(r):
            pass
        assert terminal.window_size(r) == (0, 0)
    finally:
        os.close(r)
        os.close(w)


def test_window_size() -> None:
    master, slave = os.openpty()
    try:
        terminal.set_window_size(master, 33, 111)
        assert terminal.window_size(slave) == (33, 111)
    finally:
        os.close(master)
        os.close(slave)

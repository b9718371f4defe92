"""rl attach: many clients, terminals that come, go and hang up, signals; and never any harm to the container."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from support.console import Console
from system.conftest import Rl, eventually

#: Answers each line, tells its terminal's size whenever that changes, and which signals it got.
TALKER = "trap 'echo size $(stty size)' WINCH; trap 'echo got usr1' USR1; trap 'echo got term' TERM; echo ready; "
TALKER += "while :; do if read -t 1 line; then echo \"said $line\"; test \"$line\" = leave && exit 7; fi; done"


@pytest.fixture(scope="module")
def talkers(_user_rl: Rl) -> Iterator[Rl]:
    """Two containers: plain has open stdin, term a terminal."""
    _user_rl.ok("run", "-di", "--name", "plain", "--network=none", "busybox", "sh", "-c", TALKER)
    _user_rl.ok("run", "-dit", "--name", "term", "--network=none", "busybox", "sh", "-c", TALKER)
    for name in ("plain", "term"):
        eventually(lambda name=name: "ready" in _user_rl.ok("logs", name))
    yield _user_rl
    _user_rl.clean()


class Client:
    """`rl attach` with pipes."""

    def __init__(self, rl: Rl, *arguments: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = rl.user.popen("rl", "attach", *arguments, bufsize=0, **pipes)

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")

    def hear(self, text: str) -> None:
        assert self.process.stdout
        seen = b""
        while text.encode() not in seen:
            data = self.process.stdout.read(4096)
            assert data, seen
            seen += data

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def connected(rl: Rl, name: str, clients: int) -> None:
    """Wait until so many clients are attached: the monitor has a socket for each."""
    pid = rl.ok("inspect", "-f", "{{.State.ConmonPid}}", name)
    count = "ls -l /proc/" + pid + "/fd | grep -c socket:"
    eventually(lambda: int(rl.user.run("sh", "-c", count).stdout or "0") >= clients + 1, every=0.02)


def test_many_clients(talkers: Rl) -> None:
    clients = [Client(talkers, "plain") for _ in range(4)]
    try:
        connected(talkers, "plain", 4)
        clients[0].say("one")
        for client in clients:
            client.hear("said one")
        clients[0].process.kill()
        clients[1].say("two")
        for client in clients[1:]:
            client.hear("said two")
        assert talkers.ok("inspect", "-f", "{{.State.Status}}", "plain") == "running"
    finally:
        for client in clients:
            client.end()


def test_no_stdin_and_signals(talkers: Rl) -> None:
    mute = Client(talkers, "--no-stdin", "plain")
    proxy = Client(talkers, "plain")
    alone = Client(talkers, "--sig-proxy=false", "plain")
    try:
        connected(talkers, "plain", 3)
        mute.say("unheard")
        proxy.process.send_signal(signal.SIGUSR1)
        alone.hear("got usr1")
        proxy.process.send_signal(signal.SIGTERM)
        mute.hear("got term")
        alone.process.send_signal(signal.SIGTERM)
        assert alone.process.wait(10) == -signal.SIGTERM
        proxy.say("still there")
        proxy.hear("said still there")
        assert "unheard" not in talkers.ok("logs", "plain")
    finally:
        for client in (mute, proxy, alone):
            client.end()


def test_terminal(talkers: Rl) -> None:
    """Size, resizing, detaching by the default keys and by others."""
    console = Console(talkers.user, ["rl", "attach", "term"], 30, 70)
    try:
        console.until("size 30 70")
        console.resize(40, 90)
        console.until("size 40 90")
        console.type("hello\n")
        console.until("said hello")
        console.type("\x10\x11")
        assert console.end() == 0
    finally:
        console.close()
    console = Console(talkers.user, ["rl", "attach", "--detach-keys", "ctrl-x,q", "--latest"])
    try:
        console.until("size 24 80")
        console.type("\x10\x11again\n")  # not the keys any more
        console.until("again")
        console.type("\x18q")
        assert console.end() == 0
    finally:
        console.close()
    assert talkers.ok("inspect", "-f", "{{.State.Status}}", "term") == "running"


def test_hang_up_hurts_nobody(talkers: Rl) -> None:
    leaves, stays = (Console(talkers.user, ["rl", "attach", "term"], 20 + n, 70) for n in range(2))
    try:
        leaves.until("size")
        stays.until("size 21 70")
        began = time.monotonic()
        leaves.hang_up()
        leaves.end()
        assert time.monotonic() - began < 5
        stays.type("alive\n")
        stays.until("said alive")
        assert talkers.ok("inspect", "-f", "{{.State.Status}}", "term") == "running"
    finally:
        leaves.close()
        stays.close()


BAD = [
    ("attach", "you must provide"),
    ("attach nothing", "no such container"),
    ("attach ended", "you can only attach to running containers"),
    ("attach --latest plain", "--latest"),
    ("attach --detach-keys ctrl-% plain", "ctrl-%"),
    ("attach plain term", "at most 1 arg"),
]


def test_bad(talkers: Rl) -> None:
    talkers.ok("create", "--name", "ended", "busybox", "true")
    for words, says in BAD:
        done = talkers(*words.split())
        assert (done.returncode, says in done.stderr) == (125, True), (words, done.stderr)
    talkers.ok("rm", "ended")


def test_exit_code(talkers: Rl) -> None:
    """Last, as it ends both."""
    console, client = Console(talkers.user, ["rl", "attach", "term"]), Client(talkers, "plain")
    try:
        connected(talkers, "plain", 1)
        console.until("size")
        console.type("leave\n")
        client.say("leave")
        assert console.end() == client.process.wait(15) == 7
    finally:
        console.close()
        client.end()

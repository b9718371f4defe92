"""What of ours could be seen in a container, and what a monitor could gather over time: nothing."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from system.conftest import Rl, eventually, records

#: Prints the open descriptors of the shell, which opens none itself: all of this is built in.
LIST = "i=0; while [ $i -lt 300 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done"


@pytest.mark.parametrize("words", [
    "run", "run -i", "run -t", "run -i -t", "run --userns keep-id", "run --network none", "run --network host",
    "run --network slirp4netns", "run --pid host", "run -v /etc:/e -v /v", "--storage-driver fuse-overlayfs run",
    "--runtime crun run",
])
def test_descriptors_of_a_container(rl: Rl, words: str) -> None:
    for program in ("fuse-overlayfs", "crun", "slirp4netns"):
        if program in words and not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    shown = rl.ok(*words.split(), "--rm", "busybox", "sh", "-c", LIST, input="")
    assert shown.split() == ["0", "1", "2"]


def test_descriptors_of_exec(rl: Rl) -> None:
    container = rl.ok("run", "-d", "busybox", "sleep", "1000")
    for words in ([], ["-i"], ["-t"], ["-i", "-t"]):
        assert rl.ok("exec", *words, container, "sh", "-c", LIST, input="").split() == ["0", "1", "2"], words
    rl.ok("exec", "-d", container, "sh", "-c", f"({LIST}) > /out; touch /done")
    eventually(lambda: rl("exec", container, "test", "-e", "/done").returncode == 0)
    assert "3" not in rl.ok("exec", container, "cat", "/out").split()


def test_the_callers_descriptors_and_environment_stay_outside(rl: Rl, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    with secret.open() as file:
        process = rl.user.popen("rl", "run", "-d", "--name", "one", "busybox", "sleep", "1000", pass_fds=[file.fileno()],
                                env={"SECRET": "42"})
        assert process.wait(30) == 0
    rl.ok("exec", "one", "sh", "-c", "! grep -z SECRET /proc/1/environ")
    monitor = monitor_of(rl, "one")
    eventually(lambda: "rl-monitor" in Path(f"/proc/{monitor}/cmdline").read_text())
    for pid in (monitor, init_of(rl, "one")):
        assert b"SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert not [link for link in links(pid) if "secret" in link]
    keys = rl.ok("exec", "one", "cat", "/proc/keys")
    assert keys == ""


def test_a_container_cannot_reach_its_monitor(rl: Rl) -> None:
    container = rl.ok("run", "-d", "busybox", "sleep", "1000")
    shown = rl.ok("exec", container, "ps", "-o", "pid,args")
    assert "rl" not in shown and "python" not in shown
    rl("exec", container, "sh", "-c", "kill -9 -1; true")
    assert rl.ok("inspect", "--format", "{{.State.Status}}", container) == "running"


def test_a_monitor_gathers_nothing(rl: Rl) -> None:
    """200 commands, 500 attaches, rotations of the log, orphans: as many descriptors, as much memory, no zombie."""
    rl.ok("run", "-d", "--name", "one", "--log-opt", "max-size=20k", "busybox", "sh", "-c",
          "while true; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; usleep 1000; done")
    monitor = monitor_of(rl, "one")
    eventually(lambda: "rl-monitor" in Path(f"/proc/{monitor}/cmdline").read_text())
    container = next(iter(records(rl)))
    attach(rl, container, 100)
    before, memory = len(links(monitor)), anonymous(monitor)
    attach(rl, container, 500)
    rl.ok("exec", "one", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.1 &); done")
    for _ in range(50):
        rl.ok("exec", "one", "true")
        rl.ok("exec", "-d", "one", "true")
    assert (rl.data / "containers" / container / "ctr.log.1").exists()
    eventually(lambda: len(links(monitor)) == before)
    assert anonymous(monitor) <= memory + 300
    children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
    assert not [pid for pid in children if ") Z" in Path(f"/proc/{pid}/stat").read_text()]


def attach(rl: Rl, container: str, times: int) -> None:
    directory = os.open(rl.run_dir / "containers" / container, os.O_PATH)
    try:
        for _ in range(times):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(f"/proc/self/fd/{directory}/attach")
                client.send(b'\5{"stdin":true,"stdout":true,"stderr":true}')
                client.recv(40000)
    finally:
        os.close(directory)
    time.sleep(0.1)


def monitor_of(rl: Rl, name: str) -> int:
    return int(rl.ok("inspect", "--format", "{{.State.ConmonPid}}", name))


def init_of(rl: Rl, name: str) -> int:
    return int(rl.ok("inspect", "--format", "{{.State.Pid}}", name))


def links(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return found


def anonymous(pid: int) -> int:
    """kB that are the process's own."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()[0])

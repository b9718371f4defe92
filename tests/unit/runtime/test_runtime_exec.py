"""A further process in a running container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.errors import CommandNotExecutableError, CommandNotFoundError, StateError
from rl.runtime import container
from rl.runtime import exec as runtime_exec
from rl.runtime.sync import Io
from unit.runtime.container_lab import Lab, make_lab, read_until, specification


class Running:
    """A container that sleeps, below a monitor of its own; this process stays outside."""

    def __init__(self, lab: Lab) -> None:
        read_end, write_end = os.pipe()
        self.monitor = os.fork()
        if self.monitor == 0:
            try:
                lab.enter()
                created = container.create(str(lab.bundle), specification(["sleep", "60"]), Io(0, 2, 2))
                container.start(created)
                os.write(write_end, b"%d" % created.pid)
                os.waitpid(created.pid, 0)
            finally:
                os._exit(0)
        os.close(write_end)
        self.pid = int(os.read(read_end, 20))
        os.close(read_end)
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> None:
        os.kill(self.monitor, 9)
        os.waitpid(self.monitor, 0)
        os.close(self.pidfd)

    def exec(self, command: list[str], **changes: Any) -> tuple[int, str]:
        process: dict[str, Any] = {**specification(command)["process"], **changes}
        read_end, write_end = os.pipe()
        try:
            created = runtime_exec.spawn(self.pid, self.pidfd, {"process": process}, Io(0, write_end, write_end))
        finally:
            os.close(write_end)
        with open(read_end, "rb") as pipe:
            output = pipe.read().decode()
        code = os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1])
        os.close(created.pidfd)
        return code, output


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    box = Running(make_lab(tmp_path))
    yield box
    box.end()


def test_it_is_inside(running: Running) -> None:
    code, output = running.exec(["sh", "-c", "hostname; cat /proc/1/cmdline | tr '\\0' ' '; id -u; exit 5"])
    assert (code, output.split()) == (5, ["box", "sleep", "60", "0"])
    kinds = ("pid", "net", "mnt", "user", "ipc", "uts")
    same = [running.exec(["readlink", f"/proc/{who}/ns/{kind}"])[1] for kind in kinds for who in ("1", "self")]
    assert same[::2] == same[1::2] and all(same)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_nothing_leaks(running: Running) -> None:
    before, had = sorted(os.listdir("/proc/self/fd")), children()
    assert running.exec(["ls", "/proc/self/fd"])[1].split() == ["0", "1", "2", "3"]
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert children() == had, "the first child was reaped"


@pytest.mark.parametrize(
    ("command", "changes", "kind"),
    [
        (["nothing"], {}, CommandNotFoundError),
        (["/etc/passwd"], {}, CommandNotExecutableError),
        (["/proc/self/exe"], {}, CommandNotExecutableError),
        (["true"], {"cwd": "/not/there"}, CommandNotFoundError),
    ],
)
def test_errors(running: Running, command: list[str], changes: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        running.exec(command, **changes)


def test_capabilities_are_those_asked_for(running: Running) -> None:
    sets = {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
    _, output = running.exec(["grep", "Cap[EB]", "/proc/self/status"], capabilities=sets)
    assert output.split()[1::2] == [f"{1 << 5:016x}"] * 2


def test_terminal(running: Running) -> None:
    process = specification(["sh", "-c", "tty; stty size; read x; echo got $x"])["process"]
    process.update(terminal=True, consoleSize={"height": 20, "width": 60})
    created = runtime_exec.spawn(running.pid, running.pidfd, {"process": process}, Io())
    said = read_until(created.master, b"20 60")
    os.write(created.master, b"hello\n")
    said += read_until(created.master, b"got hello")
    assert b"/dev/pts/" in said and b"got hello" in said
    assert os.waitpid(created.pid, 0)[1] == 0
    os.close(created.master)
    os.close(created.pidfd)


def test_a_container_that_has_ended(running: Running) -> None:
    os.kill(running.pid, 9)
    import select

    select.select([running.pidfd], [], [], 5)
    with pytest.raises(StateError):
        running.exec(["true"])

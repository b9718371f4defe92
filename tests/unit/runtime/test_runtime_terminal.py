"""The container's terminal: controlling, sized, owned; job control works, and hanging up ends what runs on it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rl.runtime import exec as runtime_exec
from rl.runtime.sync import Io
from unit.runtime.container_lab import KINDS, Lab, lab_of, read_until, specification
from unit.runtime.test_runtime_exec import Running


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_of(request.param) as made:
        yield made


def with_terminal(*command: str, **process: Any) -> dict[str, Any]:
    spec = specification(list(command))
    spec["process"].update(terminal=True, **process)
    return spec


def test_it_is_the_controlling_terminal(lab: Lab) -> None:
    """Session leader, /dev/tty, size, owner, and /dev/console is the same terminal."""
    script = (
        "tty; stty size; stat -c '%u %a' $(tty); "
        "cut -d' ' -f1,5,6,7,8 /proc/$$/stat; echo over-tty > /dev/tty; echo over-console > /dev/console;"
        "stat -c '%t:%T' /dev/console $(tty); echo END"
    )
    spec = with_terminal("sh", "-c", script, consoleSize={"height": 31, "width": 77}, user={"uid": 33, "gid": 33})
    text = lab.run(spec, talk=lambda master: read_until(master, b"END")).output.replace("\r\n", "\n")
    lines = text.splitlines()
    assert lines[:3] == ["/dev/pts/0", "31 77", "33 620"], text
    pid, group, session, terminal, foreground = map(int, lines[3].split())
    assert pid == group == session == foreground == 1 and terminal == 136 << 8
    assert lines[4:6] == ["over-tty", "over-console"]
    assert lines[6].split(":")[0] == lines[7].split(":")[0] == "88", "both are of the pty driver"


def test_job_control(lab: Lab) -> None:
    """^C and ^Z reach the foreground job and not the shell; fg goes on with it."""

    def talk(master: int) -> bytes:
        said = read_until(master, b"# ") or b""

        def type_(line: bytes, until: bytes) -> bytes:
            os.write(master, line)
            return read_until(master, until)

        said += type_(b"sleep 60\n", b"60\r\n")
        time.sleep(0.3)
        said += type_(b"\x03", b"# ")
        said += type_(b"echo status=$?\n", b"status=130")
        said += type_(b"sleep 61\n", b"61\r\n")
        time.sleep(0.3)
        said += type_(b"\x1a", b"Stopped")
        said += type_(b"jobs\n", b"sleep 61")
        said += type_(b"fg\n", b"sleep 61")
        time.sleep(0.3)
        said += type_(b"\x03", b"# ")
        said += type_(b"echo after=$?; exit 7\n", b"after=130")
        return said

    spec = with_terminal("sh", "-i", env=["PATH=/bin", "PS1=# "])
    result = lab.run(spec, talk=talk)
    assert result.code == 7 and "status=130" in result.output and "after=130" in result.output, result.output


def test_a_new_size_is_signalled(lab: Lab) -> None:
    def talk(master: int) -> bytes:
        said = read_until(master, b"ready")
        fcntl.ioctl(master, 0x5414, struct.pack("=HHHH", 33, 101, 0, 0))
        return said + read_until(master, b"END")

    spec = with_terminal("sh", "-c", "trap 'stty size; echo END; exit' WINCH; echo ready; while :; do sleep 0.05; done")
    assert "33 101" in lab.run(spec, talk=talk).output


def test_hanging_up(lab: Lab) -> None:
    """When the last master closes the session leader gets SIGHUP, which init of a pid namespace sees if it handles it."""
    (lab.root / "srv").chmod(0o777)
    script = "trap 'echo hung-up > /srv/file; exit 3' HUP; echo ready; while :; do sleep 0.05; done"
    result = lab.run(with_terminal("sh", "-c", script), talk=lambda master: read_until(master, b"ready"), seconds=10)
    assert result.code == 3 and (lab.root / "srv/file").read_text() == "hung-up\n"


def test_hanging_up_ends_an_exec(lab: Lab) -> None:
    """Not init: the default action of SIGHUP ends it. And its terminal is another one than the container's."""
    box = Running(lab)
    try:
        process = with_terminal("sh", "-c", "tty; echo ready; exec sleep 60")["process"]
        created = runtime_exec.spawn(box.pid, box.pidfd, {"process": process}, Io())
        assert b"/dev/pts/" in read_until(created.master, b"ready")
        time.sleep(0.2)
        os.close(created.master)
        assert select.select([created.pidfd], [], [], 5)[0]
        assert os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1]) == -signal.SIGHUP
        os.close(created.pidfd)
    finally:
        box.end()


def test_without_devpts(lab: Lab) -> None:
    spec = with_terminal("true")
    spec["mounts"] = [entry for entry in spec["mounts"] if entry["type"] != "devpts"]
    error = lab.run(spec).error
    assert error is not None and "/dev/pts/ptmx" in error.message and "devpts" in error.hint

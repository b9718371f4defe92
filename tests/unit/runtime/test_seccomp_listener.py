"""SCMP_ACT_NOTIFY: an agent gets the listener of a container's filter and answers its calls."""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RlError, UsageError
from rl.runtime import container, seccomp
from rl.runtime import exec as runtime_exec
from rl.runtime.seccomp import compiler
from rl.runtime.sync import Io
from unit.runtime.container_lab import KINDS, Lab, lab_of, specification
from unit.runtime.test_runtime_exec import Running

# linux/seccomp.h
RECEIVE, SEND = 0xC0502100, 0xC0182101


class Agent:
    """Listens on a socket; answers every call with an errno, and keeps what it was told."""

    def __init__(self, path: Path, errno: int = 88) -> None:
        self.path, self.errno = path, errno
        self.told: list[dict[str, Any]] = []
        self.calls: list[tuple[int, int]] = []  # (pid, number)
        self.rest = b""  # what came behind the message
        self.ended = threading.Event()  # the runtime has closed its end
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        here = os.open(path.parent, os.O_PATH)
        self.sock.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
        os.chmod(path, 0o777)
        self.sock.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 8, socket.MSG_CMSG_CLOEXEC)
            if not data:
                continue
            self.told.append({**json.loads(data), "received": len(fds)})
            for fd in fds:
                threading.Thread(target=self._answer_all, args=(fd,), daemon=True).start()
            self.rest += connection.recv(10)
            connection.close()
            self.ended.set()

    def _answer_all(self, fd: int) -> None:
        try:
            self._answer(fd)
        finally:
            os.close(fd)

    def _answer(self, fd: int) -> None:
        # struct seccomp_notif: id, pid, flags, struct seccomp_data; struct seccomp_notif_resp: id, val, error, flags
        while True:
            notice = array.array("B", bytes(80))
            try:
                fcntl.ioctl(fd, RECEIVE, notice)
                identity, pid, _, number = struct.unpack_from("=QIIi", notice)
                self.calls.append((pid, number))
                fcntl.ioctl(fd, SEND, struct.pack("=QqiI", identity, 0, -self.errno, 0))
            except OSError:
                return  # the last process under the filter has gone

    def profile(self, *names: str, **more: Any) -> dict[str, Any]:
        rule = {"names": list(names), "action": "SCMP_ACT_NOTIFY"}
        return {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(self.path), "listenerMetadata": "meta: data",
                "syscalls": [rule], **more}  # fmt: skip


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_of(request.param) as made:
        yield made


def agent_for(lab: Lab, name: str = "agent") -> Agent:
    return Agent(lab.bundle.parent / name)


@pytest.mark.parametrize("locked", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
def test_create(lab: Lab, locked: bool, terminal: bool) -> None:
    agent = agent_for(lab)
    spec = specification(["sh", "-c", "mkdir /tmp/x; ls /proc/self/fd | tr '\\n' ' '; grep Seccomp: /proc/self/status"])
    spec["process"].update(noNewPrivileges=locked, terminal=terminal)
    spec["annotations"] = {"a": "b"}
    spec["linux"]["seccomp"] = agent.profile("mkdir", "mkdirat", flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])

    def talk(master: int) -> bytes:
        from unit.runtime.container_lab import read_until

        return read_until(master, b"Seccomp:\t2")

    result = lab.run(spec, talk=talk)
    assert result.error is None, result.error.message if result.error else ""
    assert "Socket operation on non-socket" in result.output  # errno 88, the agent's answer
    assert "0 1 2 3 " in result.output and "Seccomp:\t2" in result.output, "neither listener nor socket are left"
    assert result.extra["leaked"] == 0
    (told,) = agent.told
    pid = told["pid"]
    assert told == {
        "ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": pid, "metadata": "meta: data", "received": 1,
        "state": {"ociVersion": "1.2.0", "id": "lab", "status": "creating", "pid": pid, "bundle": str(lab.bundle),
                  "annotations": {"a": "b"}},
    }  # fmt: skip
    assert agent.ended.wait(10)
    assert pid > 1 and agent.rest == b"", "a number of the host's; one message and no more"
    assert agent.calls and agent.calls[0][0] > 1


@pytest.mark.parametrize("locked", [False, True], ids=["early", "late"])
def test_exec(locked: bool) -> None:
    with lab_of("user") as lab:
        agent, box = agent_for(lab), Running(lab)
        profile = agent.profile("mkdir")
        process = specification(["mkdir", "/tmp/x"])["process"]
        process["noNewPrivileges"] = locked
        read_end, write_end = os.pipe()
        before = sorted(os.listdir("/proc/self/fd"))
        try:
            state = {"ociVersion": "1.2.0", "id": "box", "status": "running", "pid": box.pid, "bundle": "/b"}
            created = runtime_exec.spawn(
                box.pid, box.pidfd, {"process": process}, Io(0, write_end, write_end), profile=profile, state=state,
                seccomp_program=seccomp.program_for(profile), seccomp_flags=seccomp.flags_of(profile),
            )  # fmt: skip
            assert os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1]) == 1
            assert b"non-socket" in os.read(read_end, 1000)
            os.close(created.pidfd)
            deadline = time.monotonic() + 5
            while sorted(os.listdir("/proc/self/fd")) != before and time.monotonic() < deadline:
                time.sleep(0.01)  # the agent, a thread of ours, has some to close
            assert sorted(os.listdir("/proc/self/fd")) == before
        finally:
            box.end()
            os.close(read_end)
            os.close(write_end)
        (told,) = agent.told
        assert (told["pid"], told["state"]["pid"], told["state"]["status"]) == (created.pid, box.pid, "running")


@pytest.mark.parametrize("locked", [False, True], ids=["early", "late"])
def test_with_the_launcher(locked: bool) -> None:
    """Where the container could write our interpreter, a launcher stands between: the agent notices nothing of it."""
    with lab_of("user") as lab:
        agent = agent_for(lab)

        def exposed(spec: dict[str, Any]) -> None:
            container.launcher.exposed = lambda *arguments, **more: True

        spec = specification(["sh", "-c", "mkdir /tmp/x; ls /proc/self/fd | tr '\\n' ' '"])
        spec["process"]["noNewPrivileges"] = locked
        spec["hooks"] = {"startContainer": [{"path": "/bin/mkdir", "args": ["mkdir", "/tmp/hook"]}]}
        spec["linux"]["seccomp"] = agent.profile("mkdir")
        error = lab.run(spec, inside=exposed).error
        assert error is not None and "startContainer hook /bin/mkdir: exit status 1" in error.message, "under the filter too"
        del spec["hooks"]
        result = lab.run(spec, inside=exposed)
        assert result.error is None, result.error.message
        assert "non-socket" in result.output and result.output.endswith("0 1 2 3 ")
        assert len(agent.told) == 2


def test_the_whole_preparation_may_be_watched() -> None:
    """An agent that lets all go on (SECCOMP_USER_NOTIF_FLAG_CONTINUE) also sees our own calls; there is no deadlock."""
    with lab_of("user") as lab:
        agent = agent_for(lab)
        original = fcntl.ioctl

        def go_on(fd: int) -> None:
            while True:
                notice = array.array("B", bytes(80))
                try:
                    original(fd, RECEIVE, notice)
                    identity, pid, _, number = struct.unpack_from("=QIIi", notice)
                    agent.calls.append((pid, number))
                    original(fd, SEND, struct.pack("=QqiI", identity, 0, 0, 1))
                except OSError:
                    return

        agent._answer = go_on  # type: ignore[method-assign]
        spec = specification(["true"])
        watched = ("close", "prctl", "capset", "setresuid", "setresgid", "execve", "recvfrom", "write", "openat")
        spec["linux"]["seccomp"] = agent.profile(*watched)
        result = lab.run(spec)
        assert (result.code, result.error) == (0, None)
        numbers = compiler.numbers(os.uname().machine)
        assert {numbers["capset"], numbers["setresuid"], numbers["execve"]} <= {number for _, number in agent.calls}


def test_nobody_listens() -> None:
    """Told before anything is made."""
    with lab_of("user") as lab:
        spec = specification(["true"])
        agent = agent_for(lab)
        spec["linux"]["seccomp"] = agent.profile("mkdir")
        agent.sock.shutdown(socket.SHUT_RDWR)  # close alone leaves it to the thread that waits in accept
        agent.sock.close()
        error = lab.run(spec).error
        assert error is not None and "listenerPath" in error.message and "refused" in error.message
        for path, text in (("/no/such", "No such file"), ("relative", "not absolute")):
            spec["linux"]["seccomp"]["listenerPath"] = path
            error = lab.run(spec).error
            assert error is not None and text in error.message and "listenerPath" in error.message


def test_a_profile_without_sendmsg_is_explained() -> None:
    with lab_of("user") as lab:
        agent = agent_for(lab)
        spec = specification(["true"])
        profile = agent.profile("mkdir")
        profile["syscalls"].append({"names": ["sendmsg"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1})
        spec["linux"]["seccomp"] = profile
        error = lab.run(spec).error
        assert error is not None and "send the seccomp listener" in error.message and "sendmsg" in error.hint


def test_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    agent = Agent(deep / "agent")
    from rl.runtime.seccomp import listener

    os.close(listener.connect(str(agent.path)))
    with pytest.raises(RlError, match="listenerPath"):
        listener.connect(str(deep / "nobody"))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction: SCMP_ACT_NOTIFY"),
        ({"syscalls": [{"names": ["open", "sendmsg"], "action": "SCMP_ACT_NOTIFY"}]}, r"syscalls\[0\].names: sendmsg"),
        ({"listenerPath": 7}, "listenerPath: must be a string"),
        ({"listenerMetadata": {}}, "listenerMetadata: must be a string"),
        ({"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, r"flags\[0\]: unknown flag"),
    ],
)
def test_bad_profiles(change: dict[str, Any], path: str) -> None:
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent", "syscalls": [rule], **change}
    with pytest.raises(UsageError, match=path):
        compiler.compile_profile(profile)


@pytest.mark.parametrize("flag", [None, *compiler.FLAGS])
@pytest.mark.parametrize("notify", [False, True])
def test_flags_as_the_kernel_takes_them(flag: str | None, notify: bool) -> None:
    """Every flag of the specification, with and without a listener, is one the kernel accepts."""
    action = "SCMP_ACT_NOTIFY" if notify else "SCMP_ACT_ERRNO"
    profile: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "flags": [flag] if flag else [],
        "syscalls": [{"names": ["getppid"], "action": action}],
    }  # fmt: skip
    program, flags = seccomp.program_for(profile), seccomp.flags_of(profile)
    assert program is not None and bool(flags & seccomp.NEW_LISTENER) is notify
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
            code = 0 if (seccomp.install(program, flags) > 2) is notify else 254
        except OSError as error:
            code = error.errno or 253
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

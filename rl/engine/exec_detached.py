"""Exec sessions that outlive their command line: `rl exec -d`, and one that its user left by the detach keys.

Somebody has to stay: to take the status of the command, to keep its terminal open and empty, and to take the session
off record. That is `rl.monitor.keeper` in a lean interpreter, which the process that stays here executes.
"""

from __future__ import annotations

import marshal
import os
import sys

from rl.config.jsonio import dumps, loads
from rl.engine import events
from rl.errors import RlError, from_wire, to_wire
from rl.kernel import process as kp
from rl.runtime.sync import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rl.engine.exec import Session
    from rl.monitor.keeper import Params
    from rl.runtime.spawning import Created


def detached(session: Session) -> str:
    """Start the command in the background: the session's id. Raises what starting it raises."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        try:
            os.close(read_end)
            _stay(session, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        data = pipe.read()
    if not data:
        raise RlError("exec: the process that was to wait for the command has ended")
    answer = loads(data.decode())
    for warning in answer.get("warnings", []):
        session.engine.warn(warning)
    if "error" in answer:
        raise from_wire(answer["error"])
    return session.session_id


def _stay(session: Session, pipe: int) -> None:
    """A process of ours becomes the command's parent, reports how the start went, and waits."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    warnings: list[str] = []
    session.engine.warn = warnings.append
    created = None
    answer: dict[str, Any] = {"warnings": warnings}
    try:
        created = session.spawn(Io(null, null, null, session.preserve))
        session.begin(created.pid)
    except BaseException as error:
        answer["error"] = to_wire(error)
    os.write(pipe, dumps(answer).encode())
    os.close(pipe)
    if created is not None:
        _keep(session, created, created.pid)


def linger(session: Session, created: Created) -> None:
    """The user has detached: leave a process behind that keeps the terminal. Closed, the command would get SIGHUP."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(write_end)
        os.read(read_end, 1)  # its end: it has left our session, whose hang-up would reach it
        os.close(read_end)
        os.close(created.master)
        return
    try:
        _keep(session, created, 0)
    finally:
        os._exit(0)


def _keep(session: Session, created: Created, child: int) -> NoReturn:
    """Become the keeper of the command, which is a *child* of ours or (0) of somebody else."""
    _leave_terminal((created.master, created.pidfd))
    params: Params = {
        "id": session.id, "name": session.config["name"], "session": session.session_id, "file": session.file,
        "child": child, "pidfd": created.pidfd, "master": created.master, "image": session.config.get("image", ""),
        "labels": session.config.get("labels", {}), "package_root": "",
    }  # fmt: skip
    if session.recorded:
        try:
            params["events"] = events.log(session.engine.paths)
        except RlError:
            pass
    try:
        _replace(params)
    except (OSError, RlError):
        pass  # no memory, no helper: then in this interpreter
    from rl.monitor import keeper

    keeper.main(params)


def _replace(params: Params) -> None:
    """exec the lean interpreter; returns only by raising."""
    from rl.monitor import handover

    params["package_root"] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    helper = handover.helper_program()
    state: dict[str, Any] = dict(params)
    memory = os.memfd_create("rl-monitor", 0)
    try:
        os.write(memory, marshal.dumps({**state, "keeper": True}, 2))
        os.lseek(memory, 0, os.SEEK_SET)
        for fd in (params["pidfd"], params["master"]):
            if fd >= 0:
                os.set_inheritable(fd, True)
        interpreter: str = getattr(sys, "_base_executable", "") or sys.executable or "/proc/self/exe"
        os.execve(interpreter, [interpreter, *handover.FLAGS, helper, params["session"], str(memory)], {})
    finally:
        os.close(memory)


def _leave_terminal(wanted: tuple[int, int]) -> None:
    """Become a session of our own that holds nothing but *wanted*."""
    try:
        os.setsid()
    except PermissionError:
        pass  # it leads one already
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.chdir("/")
    first = 3
    for fd in sorted(fd for fd in wanted if fd > 2):
        if fd > first:
            kp.close_range(first, fd - 1)
        first = fd + 1
    kp.close_range(first)

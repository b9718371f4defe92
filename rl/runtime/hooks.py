"""The six kinds of hooks of the OCI runtime specification (config.md, "POSIX-platform Hooks").

prestart and createRuntime run in the runtime's namespaces while the container waits, createContainer in the
container's namespaces before pivot_root, startContainer inside it before its command, poststart and poststop
in the runtime's namespaces. Called by :mod:`rl.runtime.container`, :mod:`rl.runtime.child` and the monitor.
"""

from __future__ import annotations

import os
import select
import time

from rl.config.jsonio import dumps
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Spawn = Callable[[str, list[str], dict[str, str], int], int]  # path, arguments, environment, stdin: pid


def state(spec: dict[str, Any], bundle: str, container_id: str, status: str, pid: int) -> dict[str, Any]:
    """The state document that hooks read (runtime.md, "State")."""
    document: dict[str, Any] = {
        "ociVersion": spec.get("ociVersion", "1.2.0"), "id": container_id, "status": status, "bundle": bundle,
    }
    if pid:
        document["pid"] = pid
    if spec.get("annotations"):
        document["annotations"] = spec["annotations"]
    return document


def wanted(spec: dict[str, Any], *kinds: str) -> bool:
    """Whether *spec* has hooks of one of *kinds*."""
    hooks = spec.get("hooks") or {}
    return any(hooks.get(kind) for kind in kinds)


def run(spec: dict[str, Any], kind: str, document: dict[str, Any], spawn: Spawn | None = None) -> None:
    """Run the hooks of *kind* in order, *document* on their stdin. Raises RlError at the first that fails.

    *spawn* starts those whose programs are the container's (:func:`rl.runtime.launch.spawn`).
    """
    for hook in (spec.get("hooks") or {}).get(kind) or []:
        run_one(hook, kind, document, spawn)


def run_all(spec: dict[str, Any], kind: str, document: dict[str, Any]) -> list[str]:
    """Like :func:`run`, but a failure does not keep the next from running; returns the failures (poststop)."""
    failures = []
    for hook in (spec.get("hooks") or {}).get(kind) or []:
        try:
            run_one(hook, kind, document)
        except RlError as error:
            failures.append(error.message)
    return failures


def run_one(hook: dict[str, Any], kind: str, document: dict[str, Any], spawn: Spawn | None = None) -> None:
    """Run one hook; its ``timeout`` is in seconds. Raises RlError when it fails or does not end in time."""
    path = hook.get("path", "")
    what = f"{kind} hook {path}"
    if not path.startswith("/"):
        raise RlError(f"{what}: the path must be absolute")
    environment = dict(item.partition("=")[::2] for item in hook.get("env") or [])
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = (spawn or _spawn)(path, hook.get("args") or [path], environment, read_end)
    except BaseException as error:
        os.close(write_end)
        if isinstance(error, OSError):
            raise RlError(f"{what}: {error.strerror}") from None
        raise
    finally:
        os.close(read_end)
    status = _serve(pid, write_end, dumps(document).encode(), hook.get("timeout") or 0)
    if status is None:
        raise RlError(f"{what}: did not end within {hook['timeout']} s")
    if status:
        raise RlError(f"{what}: " + (f"exit status {status}" if status > 0 else f"ended by signal {-status}"))


def _spawn(path: str, arguments: list[str], environment: dict[str, str], stdin: int) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    return os.posix_spawn(path, arguments, environment, file_actions=actions, setsigdef=[13, 25])


def _serve(pid: int, stdin: int, data: bytes, timeout: float) -> int | None:
    """Give hook *pid* its input, *data* through pipe *stdin*, and wait for its end; None: time was up, it is killed.

    It need not read its input, and that must not keep us beyond its time. Closes *stdin*.
    """
    os.set_blocking(stdin, False)
    end = time.monotonic() + timeout
    pidfd = -1
    try:
        data = _write(stdin, data)
        while data or timeout > 0:
            poll = select.poll()
            if pidfd < 0:
                pidfd = os.pidfd_open(pid)
            poll.register(pidfd, select.POLLIN)
            if data:
                poll.register(stdin, select.POLLOUT)
            elif stdin >= 0:
                os.close(stdin)  # the end of its input
                stdin = -1
            ready = {fd for fd, _ in poll.poll(max(0.0, end - time.monotonic()) * 1000 if timeout > 0 else None)}
            if not ready:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                return None
            if pidfd in ready:
                break
            data = _write(stdin, data)
    finally:
        for fd in (stdin, pidfd):
            if fd >= 0:
                os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _write(stdin: int, data: bytes) -> bytes:
    """Write what goes into the pipe now; returns the rest, none when nobody reads."""
    try:
        return data[os.write(stdin, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""

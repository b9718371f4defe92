"""The six kinds of hooks of the OCI runtime specification (config.md, "POSIX-platform Hooks").

prestart and createRuntime run in the runtime's namespaces while the container waits, createContainer in the
container's namespaces before pivot_root, startContainer inside it before its command, poststart and poststop
in the runtime's namespaces. Called by :mod:`rl.runtime.container`, :mod:`rl.runtime.child` and the monitor.
"""

from __future__ import annotations

import os
import select

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
        try:
            pid = (spawn or _spawn)(path, hook.get("args") or [path], environment, read_end)
        except OSError as error:
            raise RlError(f"{what}: {error.strerror}") from None
        finally:
            os.close(read_end)
        try:
            os.write(write_end, dumps(document).encode())
        except BrokenPipeError:
            pass  # a hook need not read its input
    finally:
        os.close(write_end)
    status = _wait(pid, hook.get("timeout") or 0)
    if status is None:
        raise RlError(f"{what}: did not end within {hook['timeout']} s")
    if status:
        raise RlError(f"{what}: " + (f"exit status {status}" if status > 0 else f"ended by signal {-status}"))


def _spawn(path: str, arguments: list[str], environment: dict[str, str], stdin: int) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    return os.posix_spawn(path, arguments, environment, file_actions=actions, setsigdef=[13, 25])


def _wait(pid: int, timeout: float) -> int | None:
    if timeout > 0:
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(timeout * 1000):
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                return None
        finally:
            os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

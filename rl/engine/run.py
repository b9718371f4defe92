"""rl run: create and start in one go, with the monitor already on its way.

The eight steps, as `--trace` shows them: parse, validate (and resolve the image, pulling it if needed), record, then
in the monitor: root file system, network, runtime creates, the command starts.
"""

from __future__ import annotations

import os
import time

from rl.engine import containers, recording
from rl.engine import create as creation
from rl.engine.launching import Progress, Streams, attach_streams, launch_message
from rl.engine.prefork import prefork
from rl.engine.spec.values import integer
from rl.engine.trace import Trace, check, report
from rl.errors import ConflictError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.engine.context import Engine
    from rl.engine.prefork import Handle


def run(
    engine: Engine, image: str, command: list[str], options: dict[str, Any],
    on_detached: Callable[[str], object] = print,
) -> int:
    """Run *command* in a new container of *image*; its exit code, or 0 when detached.

    *on_detached* gets the id of a container that goes on in the background. Raises RlError when
    it did not start; then nothing of it is left.
    """
    trace = Trace()
    began = time.monotonic_ns()
    trace.add("parse", trace.begin, began, os.getpid())
    if options.get("detach") and options.get("attach"):
        raise UsageError("--detach and --attach contradict each other", "use one of them")
    preserve = preserved(options)
    if options.get("rmi"):
        _check_rmi(options)
    handle = engine.prefork or prefork(engine.paths)
    engine.prefork = None
    try:
        check(options)
        config = creation.plan(engine, handle.container_id, image, command, options)
        streams = Streams.of_run(config, options)
        began = trace.step("validate, resolve the image", began)
        recording.record(engine, config, options)
        began = trace.step("write the record", began)
    except BaseException:
        handle.abandon()
        raise
    if containers.needs(config):
        _start_needed(engine, handle, config)
    message = launch_message(engine, streams)
    message["preserve"] = preserve
    progress = Progress(engine, handle.pid, trace)
    if os.environ.get("NOTIFY_SOCKET"):
        from rl.engine.readiness import announce

        announce(config, handle.pid)
    try:
        pid = handle.launch(message, progress)
    except BaseException:
        recording.discard(engine, config)
        raise
    progress.done()
    report(trace, options)
    if not streams.any:
        handle.sock.close()
        on_detached(config["id"])
        return 0
    code = attach_streams(engine, config, handle.sock, streams, pid)
    if options.get("rmi"):
        _remove_image(engine, config["image"])
    return code


def _start_needed(engine: Engine, handle: Handle, config: ContainerConfig) -> None:
    """The containers that this one needs; if one does not start, neither does it."""
    from rl.engine.start import start_needed

    try:
        start_needed(engine, config)
    except BaseException:
        handle.abandon()
        recording.discard(engine, config)
        raise


def preserved(options: dict[str, Any]) -> list[int]:
    """The descriptors of --preserve-fds and --preserve-fd: what becomes 3, 4 …; -1 leaves a gap. Raises UsageError.

    Only those count that the caller gave us: they are inheritable, what we open is not.
    """
    count, listed = options.get("preserve_fds", 0), options.get("preserve_fd", [])
    if listed and count:
        raise UsageError("--preserve-fd and --preserve-fds contradict each other", "use one of them")
    if (listed or count) and options.get("restart", "no") not in ("", "no"):
        hint = "leave --restart out, or mount the file"
        raise UsageError("a container that is started again would be without the files of --preserve-fds", hint)
    wanted = [integer(fd, "--preserve-fd", 3, 1 << 20) for fd in listed] or list(range(3, 3 + count))
    for fd in wanted:
        try:
            given = os.get_inheritable(fd)
        except OSError:
            given = False
        if not given:
            flag = "--preserve-fd" if listed else "--preserve-fds"
            raise UsageError(
                f"file descriptor {fd} is not available: {flag} passes on what the caller opened", f"such as {fd}<FILE"
            )
    return [fd if fd in wanted else -1 for fd in range(3, max(wanted, default=2) + 1)]


def _check_rmi(options: dict[str, Any]) -> None:
    if options.get("rm") is False:
        raise UsageError("--rmi implies --rm: --rm=false contradicts it", "leave one of them out")
    if options.get("detach"):
        raise UsageError(
            "--rmi cannot be used with --detach: nobody waits for the end of the container", "rl rmi, when it has ended"
        )
    options["rm"] = True


def _remove_image(engine: Engine, image: str) -> None:
    """After the container; one that others use stays, as the user was told."""
    from rl.engine.rmi import rmi

    for error in rmi(engine, [image], ignore=True).errors:
        if not isinstance(error, ConflictError):
            engine.warn(f"--rmi: {error.message}")


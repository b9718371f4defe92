"""rl run: create and start in one go, with the monitor already on its way.

The eight steps, as `--trace` shows them: parse, validate (and resolve the image, pulling it if needed), record, then
in the monitor: root file system, network, runtime creates, the command starts.
"""

from __future__ import annotations

import os
import time

from rl.engine import create as creation
from rl.engine.launching import Progress, Streams, attach_streams, launch_message
from rl.engine.prefork import prefork
from rl.engine.trace import Trace, check, report
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.engine.context import Engine


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
    handle = engine.prefork or prefork(engine.paths)
    engine.prefork = None
    try:
        check(options)
        config = creation.plan(engine, handle.container_id, image, command, options)
        streams = Streams.of_run(config, options)
        began = trace.step("validate, resolve the image", began)
        creation.record(engine, config, options)
        began = trace.step("write the record", began)
    except BaseException:
        handle.abandon()
        raise
    message = launch_message(engine, streams)
    progress = Progress(engine, handle.pid, trace)
    if os.environ.get("NOTIFY_SOCKET"):
        from rl.engine.readiness import announce

        announce(config, handle.pid)
    try:
        pid = handle.launch(message, progress)
    except BaseException:
        creation.discard(engine, config)
        raise
    progress.done()
    report(trace, options)
    if not streams.any:
        handle.sock.close()
        on_detached(config["id"])
        return 0
    return attach_streams(engine, config, handle.sock, streams, pid)


"""rl start: run containers that were created before, or have ended."""

from __future__ import annotations

from rl.engine import containers
from rl.engine.launching import Progress, Streams, attach_streams, launch_message
from rl.engine.prefork import prefork
from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine


def start(engine: Engine, names: list[str], options: dict[str, Any]) -> tuple[list[tuple[str, RlError | None]], int]:
    """Start each of *names*: ((name, error or None) for each, exit code of the one attached to, else 0).

    *options*: ``attach`` and ``interactive`` (one container only), ``detach_keys``, ``sig_proxy``,
    ``all``. Starting a running container changes nothing, as in Podman.
    """
    if options.get("all"):
        names = [*names, *containers.ids(engine.paths)]
    attached = bool(options.get("attach") or options.get("interactive"))
    if attached and len(names) > 1:
        raise UsageError("only one container can be started with --attach or --interactive")
    results: list[tuple[str, RlError | None]] = []
    code = 0
    for name in names:
        try:
            code = _start(engine, name, options, attached)
        except RlError as error:
            results.append((name, error))
            continue
        results.append((name, None))
    return results, code


def _start(engine: Engine, name: str, options: dict[str, Any], attached: bool) -> int:
    paths = engine.paths
    container_id = containers.find(paths, name)
    config = containers.read_config(paths, container_id)
    if containers.read_state(paths, container_id).get("status") in containers.LIVE:
        if not attached:
            return 0
        from rl.engine.attach import attach

        return attach(engine, name, no_stdin=not options.get("interactive"), sig_proxy=options.get("sig_proxy", True),
                      detach_keys=options.get("detach_keys"))
    keys = options.get("detach_keys", config["detach_keys"])
    stdin = bool(options.get("interactive")) and config["stdin_open"]
    streams = Streams(stdin, attached, attached, keys, options.get("sig_proxy", True))
    handle = prefork(paths, container_id)
    progress = Progress(engine, handle.pid)
    pid = handle.launch(launch_message(engine, streams), progress)
    progress.done()
    if attached:
        return attach_streams(engine, config, handle.sock, streams, pid)
    handle.sock.close()
    return 0

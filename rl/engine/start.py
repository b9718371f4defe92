"""rl start: run containers that were created before, or have ended."""

from __future__ import annotations

import os
import time

from rl.engine import containers
from rl.engine.launching import Progress, Streams, attach_streams, checked_keys, launch_message
from rl.engine.prefork import prefork
from rl.errors import RlError, StateError, UsageError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState
    from rl.config.paths import Paths
    from rl.engine.context import Engine


#: Seconds to wait for a launch that somebody else has begun.
_PATIENCE = 30.0


def start(engine: Engine, names: list[str], options: dict[str, Any]) -> tuple[list[tuple[str, RlError | None]], int]:
    """Start each of *names*: ((name, error or None) for each, exit code of the one attached to, else 0).

    *options*: ``attach`` and ``interactive`` (one container only), ``detach_keys``, ``sig_proxy``,
    ``all``. Starting a running container changes nothing, as in Podman.
    """
    if options.get("all"):
        names = [*names, *containers.ids(engine.paths)]
    attached = bool(options.get("attach") or options.get("interactive"))
    if attached and len(names) > 1:
        what = "you cannot start and attach multiple containers at once"
        raise UsageError(what, "leave --attach and --interactive out")
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
    before = containers.read_state(paths, container_id)
    if before.get("status") in containers.MONITORED:
        if before["status"] not in containers.LIVE:
            return _start_now(engine, container_id, options, attached)
        if before["status"] == "paused":
            raise StateError(
                f'unable to start container "{container_id}": container {container_id} must be in Created or Stopped '
                "state to be started: container state improper",
                f"rl unpause {config['name']}",
            )
        return _already(engine, name, options, attached)
    start_needed(engine, config)
    streams = _streams(config, options, attached)
    handle = prefork(paths, container_id)
    progress = Progress(engine, handle.pid)
    if os.environ.get("NOTIFY_SOCKET"):
        from rl.engine.readiness import announce

        announce(config, handle.pid)
    try:
        pid = handle.launch(launch_message(engine, streams), progress)
    except StateError:
        now = _by_another(paths, container_id, before)
        if now == "initialized":
            return _start_now(engine, container_id, options, attached)
        if now:
            return _already(engine, name, options, attached)
        raise
    progress.done()
    if attached:
        return attach_streams(engine, config, handle.sock, streams, pid)
    handle.sock.close()
    return 0


def start_needed(engine: Engine, config: ContainerConfig) -> None:
    """Start the containers that *config* needs, first those that these need. Raises the error of the one that fails."""
    if not containers.needs(config):
        return
    from rl.engine import dependencies

    service = os.environ.pop("NOTIFY_SOCKET", "")  # a unit of systemd is about the container itself, not about these
    try:
        for container_id in dependencies.to_start(engine.paths, config):
            try:
                _start(engine, container_id, {}, False)
            except RlError as error:
                what = f"start container {container_id[:12]}, which container {config['name']} needs: {error.message}"
                raise type(error)(what, error.hint) from None
    finally:
        if service:
            os.environ["NOTIFY_SOCKET"] = service


def _start_now(engine: Engine, container_id: str, options: dict[str, Any], attached: bool) -> int:
    """It waits to be started, with a monitor: initialized, or between two runs."""
    from rl.engine.monitors import Connection

    config = containers.read_config(engine.paths, container_id)
    streams = _streams(config, options, attached)
    try:
        connection = Connection(engine.paths, container_id, streams)
    except OSError as error:
        what = f"start container {container_id[:12]}: reach its monitor: {error.strerror}"
        raise RlError(what, "try again") from None
    try:
        connection.tell("start", {})
        pid = connection.started()
        return attach_streams(engine, config, connection.detach(), streams, pid) if attached else 0
    finally:
        connection.close()


def _streams(config: ContainerConfig, options: dict[str, Any], attached: bool) -> Streams:
    stdin = bool(options.get("interactive")) and config["stdin_open"]
    keys = checked_keys(options["detach_keys"]) if "detach_keys" in options else config["detach_keys"]
    return Streams(stdin, attached, attached, keys, options.get("sig_proxy", True))


def _already(engine: Engine, name: str, options: dict[str, Any], attached: bool) -> int:
    """It runs: nothing to do, or only to attach."""
    if not attached:
        return 0
    from rl.engine.attach import attach

    return attach(engine, name, no_stdin=not options.get("interactive"), sig_proxy=options.get("sig_proxy", True),
                  detach_keys=options.get("detach_keys"))


def _by_another(paths: Paths, container_id: str, before: ContainerState) -> str:
    """The state to which another `rl start` or `rl init`, which was faster, has brought the container; "": none has.

    Rare, and over in a moment: this one polls.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        alive = userns.monitor_pid(f"{paths.container_run(container_id)}/lock")
        state = containers.read_state(paths, container_id)
        status = state.get("status", "")
        if status in containers.LIVE or status == "initialized" or state.get("started") != before.get("started"):
            return status  # it runs, has run meanwhile, or waits for us
        if not alive:
            return ""
        time.sleep(0.005)
    return ""

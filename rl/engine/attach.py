"""rl attach: connect the caller's stdio to a running container."""

from __future__ import annotations

from rl.engine import containers, events
from rl.errors import RlError, StateError
from rl.monitor import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def attach(
    engine: Engine, name: str, *, no_stdin: bool = False, sig_proxy: bool = True, detach_keys: str | None = None,
    stdin: int = 0, stdout: int = 1, stderr: int = 2,
) -> int:
    """Relay between the descriptors *stdin*, *stdout*, *stderr* and the container until it ends; its exit code.

    Detaching by keys (default: those the container was created with) gives 0. Raises StateError unless it runs.
    """
    paths = engine.paths
    container_id = containers.find(paths, name)
    config = containers.read_config(paths, container_id)
    state = containers.read_state(paths, container_id)
    status = state.get("status", "")
    if status not in ("running", "stopping"):
        hint = f"rl unpause {name}" if status == "paused" else f"`rl start --attach {name}` runs it"
        raise StateError(f"you can only attach to running containers: {name} is {status}", hint)
    wants_stdin = config.get("stdin_open", False) and not no_stdin
    keys = config.get("detach_keys") if detach_keys is None else detach_keys
    try:
        fd = client.connect(paths.container_run(container_id), stdin=wants_stdin, stdout=True, stderr=True)
    except OSError as error:
        raise RlError(
            f"attach to container {name}: {error.strerror}", "it may be ending just now: `rl ps -a` shows its state"
        ) from None
    events.emit_container(paths, config, "attach")
    result = client.attach(
        fd, stdin=stdin if wants_stdin else -1, stdout=stdout, stderr=stderr, tty=config.get("terminal", False),
        detach_keys=keys, sig_proxy=sig_proxy, pid=state.get("pid", 0), redraw=True,
    )
    if result.kind == "lost":
        what = f"attached to container {name}: {result.error}"
        raise RlError(what, f"`rl ps -a` shows its state, `rl logs {name}` its output")
    return result.exit_code

"""A running container's init, to be signalled: by a descriptor of the process itself, never by a bare number.

Called by stop and kill.
"""

from __future__ import annotations

import os

from rl.errors import RlError, StateError
from rl.kernel import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerState
    from rl.config.paths import Paths


#: Signals that are sent to end a container; also between two runs, when there is no process to take them.
ENDING = (2, 3, 6, 9, 15)


def open_init(state: ContainerState) -> int:
    """A pidfd of the init that *state* names, -1 when that process is gone (its number may be another's now)."""
    pid = state.get("pid", 0)
    if pid <= 0:
        return -1
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return -1
    # Opened first, compared then: the number cannot change its owner between the two.
    if proc.start_time(pid) != state.get("pid_start"):
        os.close(pidfd)
        return -1
    return pidfd


def tell(paths: Paths, container_id: str, number: int, state: ContainerState) -> None:
    """Say to its monitor that the user signals it: a container that ends of that is not started again."""
    from rl.monitor import client

    watch = client.ExitWatch(paths.container_run(container_id))
    watch.tell_signal(number, state.get("pid", 0))
    watch.close()


def send(pidfd: int, number: int, name: str) -> bool:
    """Signal it; False when it has ended. Raises StateError, RlError."""
    if pidfd < 0:
        return False
    try:
        proc.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise StateError(
            f"send signal {number} to container {name}: not permitted", "it belongs to another user: use that user's rl"
        ) from None
    except OSError as error:
        raise RlError(f"send signal {number} to container {name}: {error.strerror}") from None
    return True

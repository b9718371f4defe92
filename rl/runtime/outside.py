"""What a container takes from the host's mounts, bind sources and device nodes, opened where that is permitted.

The caller of clone opens them, if it may copy mounts at all (the monitor, root): they may be reachable for it only.
An ordinary user outside of any user namespace may not; then the child does it, as soon as it is in namespaces of its
own and before it changes to the ids of the container (:func:`open_inside`).
"""

from __future__ import annotations

import errno

from rl.errors import RlError, UnsupportedError
from rl.runtime import detached, devices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.runtime.sync import Setup


def open_outside(setup: Setup) -> None:
    """Fill ``setup.sources`` and ``setup.nodes``, or leave ``setup.opened`` False where the caller may not (EPERM)."""
    try:
        _open(setup)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise RlError(f"open {error.filename}: {error.strerror}") from None


def open_inside(setup: Setup) -> None:
    """The child's step: the same, where the caller could not."""
    if setup.opened:
        return
    try:
        _open(setup)
    except PermissionError as error:
        raise UnsupportedError(
            f"bind mount of {error.filename}: {error.strerror}", "an outer container forbids copying mounts (open_tree)"
        ) from None


def _open(setup: Setup) -> None:
    setup.nodes = devices.open_nodes(setup)
    setup.sources = detached.open_sources(setup)
    setup.opened = True

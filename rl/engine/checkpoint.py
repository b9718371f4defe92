"""rl container checkpoint and restore: what they would need, and what there is instead."""

from __future__ import annotations

from rl.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def refuse(verb: str) -> NoReturn:
    """Raises UnsupportedError."""
    doing = {"checkpoint": "checkpointing", "restore": "restoring"}[verb]
    raise UnsupportedError(
        f"{doing} a container requires root: CRIU needs CAP_CHECKPOINT_RESTORE in the host's own user namespace",
        "`rl pause` stops a container in memory, `rl commit` keeps its files as an image",
    )

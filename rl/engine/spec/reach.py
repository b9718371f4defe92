"""Whether the caller can reach a path of the host at all, told with the part of it that is closed."""

from __future__ import annotations

from rl.errors import UnsupportedError
from rl.runtime import access


def check(path: str, flag: str) -> None:
    """Raise UnsupportedError where a directory on the way to *path* is closed to the caller."""
    reason, hint = access.explain(path)
    if reason:
        raise UnsupportedError(f"{flag}: permission denied: {reason}", hint)

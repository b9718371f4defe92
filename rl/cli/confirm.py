"""The question before something is removed for good, as Podman asks it."""

from __future__ import annotations

import sys

from rl.cli import output
from rl.errors import RlError

QUESTION = "Are you sure you want to continue? [y/N] "


def confirmed(warning: str) -> bool:
    """Print *warning* and the question; whether the answer begins with y. Raises RlError at the end of the input."""
    output.write(warning + QUESTION)
    sys.stdout.flush()
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        raise RlError("EOF", "answer y, or use --force, which asks nothing")
    return answer[:1] in ("y", "Y")

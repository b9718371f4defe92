"""`rl unshare`: a command inside the user namespace of the containers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[COMMAND [ARG...]]"
ARGUMENTS = (0, None)
INTERSPERSED = False
OPTIONS = (
    ("--rootless-netns", "flag", "", "Refused: containers have no network namespace in common"),
)
HELP = "Run a command, or a shell, as root of the user namespace of the containers: their files are yours there."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.unshare import unshare

    return unshare(engine, arguments, rootless_netns=bool(options.get("rootless_netns")))

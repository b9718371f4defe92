"""`rl container diff`: as `rl diff`, for containers alone."""

from __future__ import annotations

from rl.cli.container import diff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER]"
ARGUMENTS = diff.ARGUMENTS
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = diff.OPTIONS
HELP = "Show what a container has changed since its image, or since another container."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    return diff.run(engine, options, arguments, "container")

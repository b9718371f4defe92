"""`rl container inspect`."""

from __future__ import annotations

from rl.cli import common
from rl.cli.system.inspect import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-f --format", "value", "FORMAT", "json, or a Go template"),
    common.LATEST,
    ("-s --size", "flag", "", "Measure what the container has written"),
)
HELP = "Show all that is known of containers."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    return show(engine, options, arguments, "container")

"""`rl image inspect`."""

from __future__ import annotations

from rl.cli.system.inspect import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [IMAGE...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (("-f --format", "value", "FORMAT", "json, or a Go template"),)
HELP = "Show all that is known of images."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    return show(engine, options, arguments, "image")

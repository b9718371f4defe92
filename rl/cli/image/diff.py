"""`rl image diff`: as `rl diff`, for images alone."""

from __future__ import annotations

from rl.cli.container import diff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [IMAGE]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = diff.OPTIONS[:1]
HELP = "Show what an image's topmost layer has changed, or how an image differs from another."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    return diff.run(engine, options, arguments, "image")

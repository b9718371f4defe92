"""`rl untag`: take names away from an image."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [NAME...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = ()
HELP = "Take names away from an image; all of them if none is given. The image itself stays."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.untag import untag

    untag(engine, arguments[0], arguments[1:])
    return 0

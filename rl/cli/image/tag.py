"""`rl tag`: a further name for an image."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE NAME [NAME...]"
ARGUMENTS = (2, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = ()
HELP = "Give an image further names."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.tag import tag

    tag(engine, arguments[0], arguments[1:])
    return 0

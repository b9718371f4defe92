"""`rl manifest exists`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = ()
HELP = "Exit with 0 if there is a manifest list of this name, with 1 if not."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import exists

    return 0 if exists(engine, arguments[0]) else 1

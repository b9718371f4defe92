"""`rl manifest remove`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST DIGEST"
ARGUMENTS = (2, 2)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = ()
HELP = "Take an entry out of a manifest list, and print the list's id."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import remove

    output.write(remove(engine, *arguments) + "\n")
    return 0

"""`rl artifact extract`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "NAME PATH"
ARGUMENTS = (2, 2)
INTERSPERSED = True
OPTIONS = (
    ("--digest", "value", "DIGEST", "Only the file with this digest"),
    ("--title", "value", "NAME", "Only the file of this name"),
)
HELP = "Write the files of an artifact into the directory PATH, or its only one to the file PATH."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.artifacts import extract

    extract(engine, *arguments, title=options.get("title", ""), digest=options.get("digest", ""))
    return 0

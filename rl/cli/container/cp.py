"""`rl cp`: copy files between containers and the host."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[CONTAINER:]SOURCE [CONTAINER:]DESTINATION"
ARGUMENTS = (2, 2)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --archive", "flag", "", "What is copied into a container belongs to its user (default true)"),
    ("--overwrite", "flag", "", "Directories may take the place of other files, and the reverse"),
    ("--pause", "flag", "", "Freeze the containers meanwhile"),
)
HELP = ("Copy files and directories, also between two containers. - is a tar stream on standard input or output. "
        "A source that ends in /. means what the directory holds.")


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.cp import cp, refuse_terminal

    refuse_terminal(arguments[1])
    cp(
        engine, *arguments, archive=options.get("archive", True), overwrite=bool(options.get("overwrite")),
        pause=bool(options.get("pause")),
    )
    return 0

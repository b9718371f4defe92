"""`rl artifact add`."""

from __future__ import annotations

from rl.cli import output
from rl.engine.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "NAME PATH [PATH...]"
ARGUMENTS = (2, None)
INTERSPERSED = True
OPTIONS = (
    ("--annotation", "array", "KEY=VALUE", "Add an annotation to the files"),
    ("-a --append", "flag", "", "Add the files to an artifact that exists"),
    ("--file-type", "value", "TYPE", "Media type of the files (default: by their names)"),
    ("--replace", "flag", "", "Make it anew if it exists"),
    ("--type", "value", "TYPE", "Type of the artifact (default application/vnd.unknown.artifact.v1)"),
)
HELP = "Make an artifact of files, and print its digest."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.artifacts import add

    digest = add(
        engine, arguments[0], arguments[1:], kind=options.get("type", ""), file_type=options.get("file_type", ""),
        append=bool(options.get("append")), replace=bool(options.get("replace")),
        annotations=values.pairs(options.get("annotation", []), "--annotation", strict=True),
    )
    output.write(digest + "\n")
    return 0

"""`rl rmi`: remove images."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [IMAGE...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("-a --all", "flag", "", "Remove all images"),
    ("-f --force", "flag", "", "Remove all names of an image, and the containers that use it"),
    ("-i --ignore", "flag", "", "A missing image is no error"),
    ("--no-prune", "flag", "", "Keep parents that have no name"),
)
HELP = """Remove images: their names, and what only they used of the disk.

Exit codes: 0 all removed, 1 one did not exist, 2 one is in use, 125 anything else.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.rmi import rmi

    result = rmi(
        engine, arguments, force=bool(options.get("force")), all=bool(options.get("all")),
        ignore=bool(options.get("ignore")), no_prune=bool(options.get("no_prune")),
    )
    for name in result.untagged:
        output.write(f"Untagged: {name}\n")
    for image in result.deleted:
        output.write(f"Deleted: {image}\n")
    for error in result.errors:
        output.complain(error)
    return result.exit_code

"""`rl manifest annotate`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import PLATFORM, changes
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST [DIGEST|IMAGE]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("--index", "flag", "", "The annotations are the list's own"),
    ("--os-features", "list", "FEATURE", "Features of the operating system that the image needs"),
    *PLATFORM,
)
HELP = "Change what a manifest list says of one of its entries, and print its id."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import annotate

    index = bool(options.get("index"))
    if index == (len(arguments) == 2):
        hint = "rl manifest inspect LIST shows the entries"
        raise UsageError("name an entry, or add --index for the list itself", hint)
    what = changes(options)
    if not what or (index and set(what) != {"annotation"}):
        raise UsageError("nothing to change was named", "--annotation, or for an entry --arch, --os, --variant …")
    found = annotate(engine, arguments[0], arguments[1] if len(arguments) == 2 else "", what, index=index)
    output.write(found + "\n")
    return 0

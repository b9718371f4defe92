"""`rl container clone`: another container like one that exists."""

from __future__ import annotations

from rl.cli import output
from rl.cli.container.options import LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [NAME [IMAGE]]"
ARGUMENTS = (1, 3)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    *LIMITS,
    ("--destroy", "flag", "", "Remove the original then"),
    ("-f --force", "flag", "", "With --destroy: even if it runs"),
    ("--name", "value", "NAME", "Name of the new container (default that of the original, with -clone)"),
    ("--run", "flag", "", "Start the new container"),
)
HELP = """Make a container with the settings of another one; prints its id.

What the original has written is not copied: `rl commit` makes an image of that. The limits, the name and the image can
be others.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.clone import clone

    name, new, image = (*arguments, "", "")[:3]
    output.write(clone(engine, name, new, image, options) + "\n")
    return 0

"""`rl container exists`: a question answered by the exit code."""

from __future__ import annotations

from rl.errors import NoSuchContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("--external", "flag", "", "Containers of other tools in the same storage count too: rl shares its own with none"),
)
HELP = "Tell whether a container exists: exit code 0 yes, 1 no."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.containers import find

    try:
        find(engine.paths, arguments[0])
    except NoSuchContainerError:
        return 1
    return 0

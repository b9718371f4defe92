"""`rl image exists`: a question answered by the exit code."""

from __future__ import annotations

from rl.errors import NoSuchImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = ()
HELP = "Tell whether an image exists: exit code 0 yes, 1 no."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.image.store import find

    try:
        find(engine.paths, arguments[0])
    except NoSuchImageError:
        return 1
    return 0

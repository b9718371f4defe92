"""`rl unmount`, `rl umount`: take away what `rl mount` has mounted."""

from __future__ import annotations

from rl.cli import common
from rl.cli.container.mount import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Unmount all that are mounted here"),
    ("-f --force", "flag", "", "Unmount even what is in use"),
    common.LATEST,
)
HELP = "Unmount the root file systems of containers. What a running container itself uses stays mounted for it."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.mount import unmount

    names = common.names(engine, options, arguments)
    return report(
        unmount(engine, names, all=bool(options.get("all")), force=bool(options.get("force"))), paths=False
    )

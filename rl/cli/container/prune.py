"""`rl container prune`: remove what does not run."""

from __future__ import annotations

from rl.cli import common, confirm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("--filter", "array", "KEY=VALUE", "Remove only these: label, label!, annotation, annotation!, until"),
    ("-f --force", "flag", "", "Do not ask"),
)
HELP = "Remove all containers that do not run."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.container_filters import PRUNE, Filters
    from rl.engine.container_prune import container_prune

    Filters(engine, options.get("filter", []), PRUNE)  # what is wrong with them is said before anything is asked
    if not options.get("force") and not confirm.confirmed("WARNING! This will remove all non running containers.\n"):
        return 0
    return common.report(container_prune(engine, options.get("filter")))

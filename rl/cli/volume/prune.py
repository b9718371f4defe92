"""`rl volume prune`."""

from __future__ import annotations

from rl.cli import confirm, output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("--filter", "array", "KEY=VALUE", "Remove only these, see `rl volume ls --filter`"),
    ("-f --force", "flag", "", "Do not ask"),
)
HELP = "Remove all volumes that no container uses, whether it runs or not."
_WARNING = (
    "WARNING! This will remove all volumes not used by at least one container. The following volumes will be removed:\n"
)


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.prune import prune, unused

    if not options.get("force"):
        names = unused(engine, options.get("filter"))
        if not names:
            output.write(_WARNING + "No dangling volumes found\n")
            return 0
        if not confirm.confirmed(_WARNING + "".join(name + "\n" for name in names)):
            return 0
    removed, errors = prune(engine, options.get("filter"))
    output.write("".join(name + "\n" for name, _ in removed))
    for error in errors:
        output.complain(error)
    return errors[-1].exit_code if errors else 0

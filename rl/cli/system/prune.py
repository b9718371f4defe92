"""`rl system prune`."""

from __future__ import annotations

from rl.cli import confirm, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("-a --all", "flag", "", "Remove all images that no container uses, not only those without a name"),
    ("--build", "flag", "", "Remove containers of broken builds too; builds here leave no containers"),
    ("--external", "flag", "", "Remove only what killed processes left, and data that no record names; asks nothing"),
    ("--filter", "array", "KEY=VALUE", "Remove only these: label, label!, until"),
    ("-f --force", "flag", "", "Do not ask"),
    ("--volumes", "flag", "", "Remove volumes that no container uses too"),
)
HELP = "Remove stopped containers and images that nothing uses, and print what went and how much space that gave."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import system_prune
    from rl.engine.times import human_size

    filters = options.get("filter") or []
    system_prune.check_filters(filters)
    if options.get("external"):
        for flag in ("all", "filter", "volumes"):
            if options.get(flag):
                raise UsageError(f"system prune --external cannot be combined with --{flag}", "leave one of them out")
        freed = system_prune.leftovers(engine)
        if freed:
            output.write(f"Total reclaimed space: {human_size(freed, 4)}\n")
        return 0
    if not options.get("force") and not confirm.confirmed(_warning(options)):
        return 0
    pruned = system_prune.prune(
        engine, all=bool(options.get("all")), filters=filters, volumes=bool(options.get("volumes"))
    )
    for what, names in (("Containers", pruned.containers), ("Volumes", pruned.volumes), ("Images", pruned.images)):
        if names:
            output.write(f"Deleted {what}\n" + "".join(name + "\n" for name in names))
    output.write(f"Total reclaimed space: {human_size(pruned.freed, 4)}\n")
    for error in pruned.errors:
        output.complain(error)
    return pruned.errors[-1].exit_code if pruned.errors else 0


def _warning(options: dict[str, Any]) -> str:
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if options.get("volumes"):
        lines.append("all volumes not used by at least one container")
    if options.get("build"):
        lines.append("all build containers")
    if options.get("all"):
        lines += ["all images without at least one container associated with them", "all build cache"]
    else:
        lines += ["all dangling images", "all dangling build cache"]
    return "WARNING! This command removes:\n" + "".join(f"\t- {line}\n" for line in lines) + "\n"

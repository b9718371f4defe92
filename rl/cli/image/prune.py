"""`rl image prune`."""

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
    ("-a --all", "flag", "", "Remove all images that no container uses, not only those without a name"),
    ("--build-cache", "flag", "", "Remove what builds keep too: their cache, and that of --mount=type=cache"),
    ("--external", "flag", "", "Remove images of build containers too; builds here leave no containers"),
    ("--filter", "array", "KEY=VALUE", "Remove only these: label, label!, until"),
    ("-f --force", "flag", "", "Do not ask"),
)
HELP = "Remove images that nothing uses, and print their ids."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.image_prune import check_filters, prune

    filters = options.get("filter") or []
    check_filters(filters)
    everything = bool(options.get("all"))
    if not options.get("force"):
        which = "images without at least one container associated with them" if everything else "dangling images"
        if not confirm.confirmed(f"WARNING! This command removes all {which}.\n"):
            return 0
    pruned = prune(engine, all=everything, filters=filters, build_cache=bool(options.get("build_cache")))
    output.write("".join(image + "\n" for image in pruned.ids))
    for error in pruned.errors:
        output.complain(error)
    return pruned.errors[-1].exit_code if pruned.errors else 0

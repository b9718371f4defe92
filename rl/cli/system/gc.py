"""`rl gc`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("-a --all", "flag", "", "With --keep-free, images with names that no container uses may go, too"),
    ("--dry-run", "flag", "", "Only tell what would be removed"),
    ("--keep-free", "value", "SIZE", "Remove what can be had again, until so much is free, such as 20G"),
)
HELP = """Free what nothing uses, and with --keep-free what can be had again, least recently used first.

In this order, and no further than it takes: downloads that were cut off, the cache of builds, images made ready for
other user namespaces, images without a name, and with --all unused images with names. Never containers and volumes.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.gc import gc
    from rl.engine.spec.values import size
    from rl.engine.times import human_size

    wanted = size(options["keep_free"], "--keep-free") if "keep_free" in options else 0
    found = gc(engine, keep_free=wanted, all=bool(options.get("all")), dry_run=bool(options.get("dry_run")))
    verb = "Would free" if options.get("dry_run") else "Freed"
    for what, count in found.items:
        output.write(f"{verb} {human_size(count, 4)}: {what}\n")
    output.write(f"{human_size(found.free, 4)} are free\n")
    return 0

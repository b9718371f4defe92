"""`rl image mount`: the file systems of images, read-only, for programs outside of containers."""

from __future__ import annotations

from rl.cli import output
from rl.cli.container.mount import check_format, report
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "[IMAGE...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("-a --all", "flag", "", "Mount all images"),
    ("--format", "value", "FORMAT", "json instead of lines"),
)
HELP = ("Mount the file systems of images read-only and print where; without a name, list what is mounted. An ordinary "
        "user does so inside `rl unshare`: a mount ends with it.")


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import mount

    check_format(options)
    if arguments and options.get("all"):
        raise UsageError("when using the --all switch, you may not pass any image names or IDs")
    if arguments or options.get("all"):
        return report(mount.mount_images(engine, arguments, all=bool(options.get("all"))), paths=True)
    rows = mount.image_mounts(engine)
    if options.get("format") == "json":
        output.write(output.to_json(rows, " ") + "\n")
        return 0
    lines = [(name, row["mountpoint"]) for row in rows for name in row["Repositories"] or [row["id"][:12]]]
    output.write(output.table(lines, least=0))
    return 0

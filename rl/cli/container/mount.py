"""`rl mount`: root file systems of containers, for programs outside of them."""

from __future__ import annotations

from rl.cli import common, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rl.engine.context import Engine
    from rl.engine.mount import Result

USAGE = "[CONTAINER...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --all", "flag", "", "Mount all containers"),
    ("--format", "value", "FORMAT", "json instead of lines"),
    common.LATEST,
    ("--no-trunc --notruncate", "flag", "", "Do not shorten ids"),
)
HELP = ("Mount the root file systems of containers and print where; without a name, list what is mounted. An ordinary "
        "user does so inside `rl unshare`: a mount ends with it. Do not start a container while it is mounted.")


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import mount

    check_format(options)
    if arguments or options.get("all") or options.get("latest"):
        names = common.names(engine, options, arguments)
        return report(mount.mount(engine, names, all=bool(options.get("all"))), paths=True)
    rows = mount.mounts(engine)
    if options.get("format") == "json":
        output.write(output.to_json(rows, " ") + "\n")
        return 0
    length = None if options.get("no_trunc") else 12
    output.write(output.table([(row["id"][:length], row["mountpoint"]) for row in rows], least=0))
    return 0


def check_format(options: dict[str, Any]) -> None:
    """Raises UsageError for a --format that is not json."""
    if options.get("format", "json") != "json":
        raise UsageError(f'unknown --format argument: "{options["format"]}"', "leave --format out, or use json")


def report(results: Sequence[Result], *, paths: bool) -> int:
    """Print where each was mounted, or its name, and the errors of the others."""
    code = 0
    for name, path, error in results:
        if error is None:
            output.write((path if paths else name) + "\n")
        else:
            output.complain(error)
            code = error.exit_code
    return code

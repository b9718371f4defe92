"""`rl diff`, `rl container diff`, `rl image diff`: what changed in a file system."""

from __future__ import annotations

from rl.cli import common, output
from rl.errors import UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER|IMAGE [CONTAINER|IMAGE]"
ARGUMENTS = (0, 2)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("--format", "value", "FORMAT", "json instead of lines"),
    common.LATEST,
)
HELP = ("Show what a container has changed since its image, an image since the layer below, or either since another: "
        "A added, C changed, D deleted.")


def run(engine: Engine, options: dict[str, Any], arguments: list[str], kind: str = "") -> int:
    from rl.engine.diff import diff

    if options.get("format", "json") != "json":
        raise UsageError("only supported value for '--format' is 'json'", "leave --format out for lines")
    if options.get("latest") and arguments:
        raise UsageError("--latest and containers cannot be used together", "leave --latest or the names out")
    if not options.get("latest") and not arguments:
        verb = f"rl {kind} diff".replace("  ", " ")
        raise UsageError(f'"{verb}" requires a name, id, or the "--latest" flag', "`rl ps -a` lists all containers")
    name, rest = common.one(engine, options, arguments)
    changes = diff(engine, name, *rest, kind=kind)
    if options.get("format"):
        titles = (("changed", "C"), ("added", "A"), ("deleted", "D"))
        document = {title: paths for title, sign in titles if (paths := [path for how, path in changes if how == sign])}
        output.write(output.to_json(document, "     ") + "\n")
    else:
        output.write("".join([f"{how} {printable(path)}\n" for how, path in changes]))
    return 0

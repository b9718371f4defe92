"""`rl volume inspect`."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "VOLUME [VOLUME...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "volume"
OPTIONS = (
    ("-a --all", "flag", "", "Show all volumes"),
    ("-f --format", "value", "FORMAT", "json, or a Go template"),
)
HELP = "Show all that is known of volumes, named in full or by an unambiguous beginning."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.inspect import inspect

    if bool(options.get("all")) == bool(arguments):
        raise UsageError("provide one or more volume names or use --all", "`rl volume ls` lists all volumes")
    documents, errors = inspect(engine, arguments, all=bool(options.get("all")))
    text = options.get("format", "json") or "json"
    if text == "json":
        output.write(output.to_json(documents, "     ") + "\n")
    else:
        from rl.engine.volume.ls import row

        output.write("".join([output.render(text, row(document)) for document in documents]))
    for error in errors:
        output.complain(error)
    return errors[-1].exit_code if errors else 0

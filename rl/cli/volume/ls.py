"""`rl volume ls`."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("-f --filter", "list", "KEY=VALUE", "Show only these: after, anonymous, dangling, driver, label, label!, name, "
     "opt, scope, since, until"),
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("-n --noheading", "flag", "", "Print no headings"),
    ("-q --quiet", "flag", "", "Print only names"),
)
HELP = "List volumes."
_COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.volume.ls import ls, row

    if options.get("quiet") and "format" in options:
        raise UsageError("quiet and format flags cannot be used together", "leave one of them out")
    found = ls(engine, options.get("filter"))
    if options.get("quiet"):
        output.write("".join(document["Name"] + "\n" for document in found))
    elif found or options.get("format") == "json":
        rows = [row(document) for document in found]
        text = options.get("format", "")
        output.print_rows(text, rows, _COLUMNS, not options.get("noheading"), documents=lambda: found)
    return 0

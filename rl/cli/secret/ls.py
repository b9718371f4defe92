"""`rl secret ls`: the table of secrets."""

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
    ("-f --filter", "list", "KEY=VALUE", "Show only these: name=REGEX, id=PREFIX"),
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("-n --noheading", "flag", "", "Print no headings"),
    ("-q --quiet", "flag", "", "Print only ids"),
)
HELP = "List secrets."
_COLUMNS = (("ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("CREATED", "CreatedAt"), ("UPDATED", "UpdatedAt"))


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import secrets
    from rl.engine.times import ago

    if options.get("quiet") and options.get("format"):
        raise UsageError("quiet and format are mutually exclusive", "leave one of them out")
    found = secrets.ls(engine, options.get("filter"))
    if options.get("quiet"):
        output.write("".join([record["id"] + "\n" for record in found]))
        return 0
    rows = [
        {"ID": one["id"], "Name": one["name"], "Driver": one["driver"], "CreatedAt": ago(one["created"]),
         "UpdatedAt": ago(one["updated"]), "Labels": one["labels"]}
        for one in found
    ]
    output.print_rows(
        options.get("format", ""), rows, _COLUMNS, not options.get("noheading"),
        documents=lambda: [secrets.inspect(engine, one["id"]) for one in found], indent="    ",
    )
    return 0

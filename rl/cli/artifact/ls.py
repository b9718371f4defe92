"""`rl artifact ls`."""

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
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("--no-trunc", "flag", "", "Print whole digests"),
    ("-n --noheading", "flag", "", "Print no headings"),
)
HELP = "List artifacts."
_COLUMNS = (("REPOSITORY", "Repository"), ("TAG", "Tag"), ("DIGEST", "Digest"), ("SIZE", "Size"))


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.artifacts import ls
    from rl.engine.times import human_size

    found = ls(engine)
    rows = []
    for row in found:
        digest = row["Digest"] if options.get("no_trunc") else row["Digest"][7:19]
        rows.append({**row, "Digest": digest, "Size": human_size(row["VirtualSize"], 4)})
    text = options.get("format", "")
    output.print_rows(text, rows, _COLUMNS, not options.get("noheading"), documents=lambda: found)
    return 0

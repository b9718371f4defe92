"""`rl search`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import CONNECTION, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "TERM"
ARGUMENTS = (1, 1)
INTERSPERSED = True
OPTIONS = (
    ("--compatible", "flag", "", "Show stars, official and automated, too"),
    ("-f --filter", "list", "KEY=VALUE", "Show only these: stars=N, is-official, is-automated"),
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("--limit", "value", "N", "At most so many of each registry (default 25)", "uint"),
    ("--list-tags", "flag", "", "List the tags of a repository instead"),
    ("--no-trunc", "flag", "", "Print whole descriptions"),
    *CONNECTION,
)
HELP = """Search registries for images.

REGISTRY/WORD searches that registry, a word alone those that short names are looked for in (registries.conf).
"""
_COLUMNS = (("NAME", "Name"), ("DESCRIPTION", "Description"))
_MORE = (("STARS", "Stars"), ("OFFICIAL", "Official"), ("AUTOMATED", "Automated"))
_TAGS = (("NAME", "Name"), ("TAG", "Tag"))
_WIDTH = 44


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.search import search

    tags = bool(options.get("list_tags"))
    found = search(
        engine, arguments[0], limit=options.get("limit", 0), filters=options.get("filter"), list_tags=tags,
        **registry(options),
    )
    columns = _TAGS if tags else _COLUMNS + (_MORE if options.get("compatible") else ())
    rows = found if tags or options.get("no_trunc") else [_short(row) for row in found]
    if rows or options.get("format"):
        output.print_rows(options.get("format", ""), rows, columns, documents=lambda: found, indent="    ")
    return 0


def _short(row: dict[str, Any]) -> dict[str, Any]:
    text = " ".join(row["Description"].split())
    return {**row, "Description": text if len(text) <= _WIDTH else text[:_WIDTH] + "..."}

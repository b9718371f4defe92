"""`rl history`: how an image was made."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("-H --human", "flag", "", "Show sizes and dates in human readable form (default true)"),
    ("--no-trunc --notruncate", "flag", "", "Show ids and commands in full"),
    ("-q --quiet", "flag", "", "Print only ids"),
)
HELP = "Show how an image was made: its steps, the newest first."
_COLUMNS = [("ID", "ID"), ("CREATED", "Created"), ("CREATED BY", "CreatedBy"), ("SIZE", "Size"), ("COMMENT", "Comment")]
_WIDEST = 45  # characters of a command that a table shows, as Podman


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.history import history

    text = options.get("format", "")
    if options.get("quiet") and text:
        raise UsageError("quiet and format are mutually exclusive", "leave one of them out")
    full, human = bool(options.get("no_trunc")), options.get("human", True)
    steps = history(engine, arguments[0])
    if options.get("quiet"):
        output.write("".join([_id(step, full) + "\n" for step in steps]))
        return 0
    shown = [_display(step, full, human) for step in steps] if text != "json" else []
    output.print_rows(text, shown, _COLUMNS, documents=lambda: [_document(step) for step in steps])
    return 0


def _id(step: dict[str, Any], full: bool) -> str:
    return str(step["id"] if full else step["id"][:12])


def _document(step: dict[str, Any]) -> dict[str, Any]:
    """As Podman's JSON: what is empty is left out, but for the size."""
    return {key: value for key, value in step.items() if value or key == "size"}


def _display(step: dict[str, Any], full: bool, human: bool) -> dict[str, Any]:
    from rl.engine.times import ago, human_size

    command = step["CreatedBy"]
    if not full and len(command) > _WIDEST:
        command = command[: _WIDEST - 3] + "..."
    return {
        "ID": _id(step, full), "Created": ago(step["created"]) if human else step["created"], "CreatedBy": command,
        "Size": human_size(step["size"], space=" ") if human else str(step["size"]), "Comment": step["comment"],
        "Tags": step["tags"],
    }  # fmt: skip

"""`rl manifest rm`."""

from __future__ import annotations

from rl.cli import output
from rl.errors import NoSuchImageError, RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST [LIST...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (("-i --ignore", "flag", "", "No error for a list that does not exist"),)
HELP = "Remove manifest lists; the images in them stay."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import delete

    code = 0
    for name in arguments:
        try:
            full, list_id = delete(engine, name)
            output.write(f"Untagged: {full}\nDeleted: {list_id}\n")
        except NoSuchImageError as error:
            if not options.get("ignore"):
                output.complain(error)
                code = 1
        except RlError as error:
            output.complain(error)
            code = error.exit_code
    return code

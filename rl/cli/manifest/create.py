"""`rl manifest create`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import CONNECTION, pairs, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST [IMAGE...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("--all", "flag", "", "Of images that are lists, add all entries"),
    ("-a --amend", "flag", "", "If there is such a list, add to it"),
    ("--annotation", "array", "KEY=VALUE", "Add an annotation to the list"),
    *CONNECTION,
)
HELP = """Make a manifest list of images, and print its id.

IMAGE is an image here, docker://NAME in a registry, or oci:, oci-archive:, docker-archive:, dir: with a path.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import create

    found = create(
        engine, arguments[0], arguments[1:], all=bool(options.get("all")), amend=bool(options.get("amend")),
        annotations=pairs(options), **registry(options),
    )
    output.write(found + "\n")
    return 0

"""`rl manifest add`."""

from __future__ import annotations

from rl.cli import output
from rl.cli.manifest.options import CONNECTION, PLATFORM, changes, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "LIST IMAGE [IMAGE...]"
ARGUMENTS = (2, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (("--all", "flag", "", "Of an image that is a list, add all entries"), *PLATFORM, *CONNECTION)
HELP = """Add images to a manifest list, and print its id.

IMAGE is an image here, docker://NAME in a registry, or oci:, oci-archive:, docker-archive:, dir: with a path.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.manifest.lists import add

    found = ""
    for image in arguments[1:]:
        how = registry(options)
        found = add(engine, arguments[0], image, all=bool(options.get("all")), changes=changes(options), **how)
    output.write(found + "\n")
    return 0

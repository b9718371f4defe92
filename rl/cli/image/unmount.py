"""`rl image unmount`: take away what `rl image mount` has mounted."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "IMAGE [IMAGE...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (
    ("-a --all", "flag", "", "Unmount all that are mounted here"),
    ("-f --force", "flag", "", "Unmount even what is in use"),
)
HELP = "Unmount the file systems of images. Prints their ids."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.mount import unmount_images

    if not arguments and not options.get("all"):
        raise UsageError("image name or ID must be specified", "or --all")
    if arguments and options.get("all"):
        raise UsageError("when using the --all switch, you may not pass any image names or IDs")
    code = 0
    results = unmount_images(engine, arguments, all=bool(options.get("all")), force=bool(options.get("force")))
    for _, image, error in results:
        if error is None:
            output.write(image + "\n")
        else:
            output.complain(error)
            code = error.exit_code
    return code

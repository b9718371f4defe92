"""`rl commit`: an image of what a container is now."""

from __future__ import annotations

import sys

from rl.cli import output
from rl.errors import RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "CONTAINER [IMAGE]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
COMPLETE = "container"
OPTIONS = (
    ("-a --author", "value", "NAME", "Author of the image"),
    ("-c --change", "array", "INSTRUCTION", "Apply CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, "
     "VOLUME or WORKDIR"),
    ("--config", "value", "PATH", "Merge the configuration in this JSON file into the image's"),
    ("-f --format", "value", "FORMAT", "oci (default) or docker"),
    ("--iidfile", "value", "PATH", "Write the image's id to this file"),
    ("--include-volumes", "flag", "", "Record mounted volumes as VOLUME of the image; their contents stay out"),
    ("-m --message", "value", "TEXT", "Comment of the image, with --format docker"),
    ("-p --pause", "flag", "", "Freeze the container meanwhile"),
    ("-q --quiet", "flag", "", "Print nothing but the id"),
    ("-s --squash", "flag", "", "Make one layer of all files"),
)
HELP = "Make an image of a container, with what it has written as a new layer. Without a name it is shown as <none>."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.commit import commit

    def step(text: str) -> None:
        if not options.get("quiet"):
            sys.stderr.write(text + "\n")

    image = commit(
        engine, arguments[0], arguments[1] if len(arguments) > 1 else "", author=options.get("author", ""),
        message=options.get("message", ""), changes=options.get("change"), config=_config(options.get("config", "")),
        format=options.get("format", "oci"), include_volumes=bool(options.get("include_volumes")),
        pause=bool(options.get("pause")), squash=bool(options.get("squash")), on_step=step,
    )
    if options.get("iidfile"):
        try:
            with open(options["iidfile"], "w", encoding="utf-8") as file:
                file.write(image)
        except OSError as error:
            raise RlError(f"write the image's id to {options['iidfile']}: {error.strerror}",
                          f"the image was made: {image}") from None
    output.write(f"{image}\n")
    return 0


def _config(path: str) -> dict[str, Any]:
    if not path:
        return {}
    from rl.config.jsonio import loads

    try:
        with open(path, encoding="utf-8") as file:
            found = loads(file.read())
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--config {path}: {error}", 'a JSON object, for example {"Cmd": ["sh"]}') from None
    if not isinstance(found, dict):
        raise UsageError(f"--config {path}: not a JSON object", 'for example {"Cmd": ["sh"]}')
    return found

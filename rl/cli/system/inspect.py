"""`rl inspect`: the document of a container, an image or a volume."""

from __future__ import annotations

from rl.cli import common, output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "NAME [NAME...]"
ARGUMENTS = (0, None)
INTERSPERSED = True
COMPLETE = "container image volume"
OPTIONS = (
    ("-f --format", "value", "FORMAT", "json, or a Go template"),
    common.LATEST,
    ("-s --size", "flag", "", "Measure what the container has written"),
    ("-t --type", "value", "TYPE", "Look only for a container, an image or a volume",
     ("all", "container", "image", "volume")),
)
HELP = "Show all that is known of a container, an image or a volume: the first of these that has the name."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    return show(engine, options, arguments, options.get("type", "all"))


def show(engine: Engine, options: dict[str, Any], arguments: list[str], kind: str) -> int:
    """Print the documents, then the errors of names that are not there."""
    if options.get("latest"):
        if kind not in ("all", "container"):
            raise UsageError("--latest is only for containers", "leave it out")
        kind = "container"
    if kind in ("image", "volume"):
        if options.get("size"):
            raise UsageError("--size is only for containers", "leave it out")
        names = arguments
    else:
        names = common.names(engine, options, arguments)
    text = options.get("format", "json") or "json"
    template = None
    if text != "json":
        from rl.cli.template import Template

        if not text.startswith("table"):
            template = Template(text)  # what is wrong with it is said before anything is read
    if kind == "image":
        documents, errors = _images(engine, names)
    else:
        from rl.engine.inspect import inspect

        documents, errors = inspect(engine, names, kind, bool(options.get("size")))
    if text == "json":
        output.write(output.to_json(documents, "     ") + "\n")
    elif template is not None and "\\" not in text:
        output.write("".join([_line(template.render(document)) for document in documents]))
    else:
        output.write("".join([output.render(text, document) for document in documents]))
    for error in errors:
        output.complain(error)
    return errors[-1].exit_code if errors else 0


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _images(engine: Engine, names: list[str]) -> tuple[list[dict[str, Any]], list[Any]]:
    from rl.engine.image_inspect import image_inspect
    from rl.errors import RlError

    documents: list[dict[str, Any]] = []
    errors: list[Any] = []
    for name in names:
        try:
            documents += image_inspect(engine, [name])
        except RlError as error:
            errors.append(error)
    return documents, errors

"""`rl image tree`."""

from __future__ import annotations

from rl.cli import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine
    from rl.engine.image_tree import Layer

USAGE = "IMAGE"
ARGUMENTS = (1, 1)
INTERSPERSED = True
COMPLETE = "image"
OPTIONS = (("--whatrequires", "flag", "", "Show what is built upon the image instead of what it is built upon"),)
HELP = "Show the layers of an image, their sizes, and which images they are the top of."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine.image_tree import tree
    from rl.engine.times import human_size

    records, layers = tree(engine, arguments[0], whatrequires=bool(options.get("whatrequires")))
    record = records[0]
    names = " ".join(one["name"] for one in records if one["name"])
    lines = [f"Image ID: {record['id'][:12]}", f"Tags:     [{names}]", f"Size:     {human_size(record['size'], 4)}"]
    if not layers:
        lines.append("No Image Layers")
    else:
        lines.append("Image Layers")
        if options.get("whatrequires"):
            _grow(layers[0], "", True, lines)
        else:
            for number, layer in enumerate(layers):
                lines.append(_line(layer, "└── " if number == len(layers) - 1 else "├── "))
    output.write("\n".join(lines) + "\n")
    return 0


def _line(layer: Layer, prefix: str) -> str:
    from rl.engine.times import human_size

    text = f"{prefix}ID: {layer.diff_id[7:19]} Size: {human_size(layer.size, 4):>7}"
    return text + (f" Top Layer of: [{' '.join(layer.names)}]" if layer.names else "")


def _grow(layer: Layer, indent: str, last: bool, lines: list[str]) -> None:
    lines.append(_line(layer, indent + ("└── " if last else "├── ")))
    for number, child in enumerate(layer.children):
        _grow(child, indent + ("    " if last else "│   "), number == len(layer.children) - 1, lines)

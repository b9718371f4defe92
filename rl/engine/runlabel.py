"""rl container runlabel: the command that an image's label holds, run by rl itself.

Only commands of rl (written as podman, docker or rl) are run: Podman executes any program of the host that an image
names, which no image should be able to do. Source: podman-container-runlabel(1).
"""

from __future__ import annotations

from rl.engine.create import resolve_image
from rl.errors import NotFoundError, UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

_OURS = ("podman", "docker", "rl")


def runlabel(
    engine: Engine, label: str, image: str, arguments: list[str], *, name: str = "", replace: bool = False,
    **pull: Any,
) -> list[str]:  # fmt: skip
    """The words after ``rl`` that the label *label* of *image* asks for. Raises NotFoundError, UnsupportedError.

    *name* is put in the place of NAME and of ``--name``'s value; *replace* adds ``--replace``; *arguments* come last.
    """
    import shlex

    record, document = resolve_image(engine, image, pull)
    command = ((document.get("config") or {}).get("Labels") or {}).get(label, "")
    if not command:
        raise NotFoundError(f"cannot find the value of label: {label} in image: {image}", f"rl image inspect {image}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"label {label} of image {image}: {error}: {command}") from None
    if words[0].rpartition("/")[2] not in _OURS:
        raise UnsupportedError(
            f"label {label} of image {image} is no command of {', '.join(_OURS)}, but: {command}",
            "what an image brings along is not run on the host: read it, and run it yourself",
        )
    full = record["name"] or record["id"]
    name = name or full.rpartition("/")[2].partition("@")[0].partition(":")[0]
    values = {"IMAGE": full, "NAME": name, "OPT1": "", "OPT2": "", "OPT3": "", "PWD": _working_directory()}
    words = [word for word in (_fill(word, values) for word in words[1:]) if word]
    if replace and "run" in words[:2] and "--replace" not in words:
        words.insert(words.index("run") + 1, "--replace")
    return [*words, *arguments]


def _working_directory() -> str:
    import os

    return os.getcwd()


def _fill(word: str, values: dict[str, str]) -> str:
    """IMAGE and NAME as words (or after =), ${IMAGE}, $NAME … anywhere."""
    before, equals, last = word.rpartition("=")
    if last in ("IMAGE", "NAME"):
        return before + equals + values[last]
    for key, value in values.items():
        word = word.replace("${" + key + "}", value).replace("$" + key, value)
    return word

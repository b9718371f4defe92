"""--secret: which secret a container gets, where, and whose it is there (podman-run(1))."""

from __future__ import annotations

import os

from rl.engine.spec.values import integer
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import SecretUse

DIRECTORY = "/run/secrets"
_MOUNT_ONLY = ("uid", "gid", "mode")
_HINT = "write NAME[,type=mount|env][,target=…][,uid=N][,gid=N][,mode=0444]"


def parse(text: str) -> SecretUse:
    """One ``NAME[,OPTION=VALUE…]``; the id is still empty. Raises UsageError."""
    source, fields = "", text.split(",")
    if "=" not in fields[0]:
        source = fields.pop(0)
    given: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals or key not in ("source", "type", "target", *_MOUNT_ONLY):
            raise UsageError(f"--secret {text!r}: unknown option {field!r}", _HINT)
        given[key] = value
    source = given.get("source", source)
    kind = given.get("type", "mount")
    if not source:
        raise UsageError(f"--secret {text!r} names no secret", _HINT)
    if kind not in ("mount", "env"):
        raise UsageError(f"--secret {text!r}: type {kind!r} is invalid", "use type=mount or type=env")
    target = given.get("target") or source
    if kind == "env":
        if any(key in given for key in _MOUNT_ONLY):
            raise UsageError(f"--secret {text!r}: uid, gid and mode cannot be set with type=env", "leave them out")
        if "=" in target or "\0" in target:
            raise UsageError(f"--secret {text!r}: {target!r} is no name of an environment variable", _HINT)
    else:
        target = _path(target, text)
    return {
        "id": "", "name": source, "type": kind, "target": target,
        "uid": integer(given.get("uid", 0), "--secret uid", 0, 2**32 - 2),
        "gid": integer(given.get("gid", 0), "--secret gid", 0, 2**32 - 2), "mode": _mode(given.get("mode", "0444")),
    }


def _path(target: str, text: str) -> str:
    path = os.path.normpath(target if target.startswith("/") else f"{DIRECTORY}/{target}")
    inside = "/" if target.startswith("/") else f"{DIRECTORY}/"
    if path in ("/", "//", DIRECTORY) or not path.startswith(inside):
        raise UsageError(f"--secret {text!r}: {target!r} is no place for a file", "name one, such as target=/etc/key")
    return f"/{path.lstrip('/')}"


def _mode(text: str) -> int:
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o7777:
        raise UsageError(f"--secret: mode {text!r} is not an octal mode", "write mode=0400")
    return value


def uses(texts: list[str]) -> list[SecretUse]:
    """All of --secret; two at one place are an error."""
    found = [parse(text) for text in texts]
    taken: set[tuple[str, str]] = set()
    for use in found:
        place = use["type"], use["target"]
        if place in taken:
            raise UsageError(f"--secret: {use['target']} is given twice", "give one of them another target")
        taken.add(place)
    return found

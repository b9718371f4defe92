"""storage.conf: which driver its owner wants (containers-storage.conf(5)). Read only where the file exists."""

from __future__ import annotations

import sys
from typing import Any

from rl.errors import UsageError


def driver(path: str) -> str:
    """The rl driver that *path* asks for, "" if it does not say. Raises UsageError for a broken file."""
    storage = _load(path).get("storage", {})
    if not isinstance(storage, dict):
        raise UsageError(f"read {path}: [storage] is not a table")
    name = storage.get("driver", "")
    if not isinstance(name, str):
        raise UsageError(f"read {path}: storage.driver is not a string")
    if name in ("overlay", "overlay2") and _mount_program(storage).endswith("fuse-overlayfs"):
        return "fuse-overlayfs"
    return name


def _mount_program(storage: dict[str, Any]) -> str:
    options = storage.get("options", {})
    if not isinstance(options, dict):
        return ""
    overlay = options.get("overlay", {})
    inner = overlay.get("mount_program", "") if isinstance(overlay, dict) else ""
    return str(inner or options.get("mount_program", ""))


def _load(path: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(path, "rb") as file:
            return dict(tomllib.load(file))
    except OSError as error:
        raise UsageError(f"read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"read {path}: {error}", "mend the file, or move it away") from None

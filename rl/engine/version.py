"""`rl version`: what this rl is, with Podman's keys."""

from __future__ import annotations

import os

import rl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine


def version(engine: Engine) -> dict[str, Any]:
    """{"Client": {…}}. ``GoVersion`` is there for templates made for Podman, and empty; ``Python`` says more."""
    return {"Client": client()}


def client() -> dict[str, Any]:
    """The versions of this program. ``Built`` is when its files were put in place, in seconds since 1970."""
    import platform
    import time

    from rl.image.archive import this_platform

    system, architecture, _ = this_platform()
    package = os.path.dirname(os.path.abspath(rl.__file__))
    built = int(os.stat(f"{package}/__init__.py").st_mtime)
    return {
        "Version": rl.__version__,
        "APIVersion": rl.__version__,
        "GoVersion": "",
        "Python": platform.python_version(),
        "GitCommit": _commit(os.path.dirname(package)),
        "BuiltTime": time.asctime(time.gmtime(built)),
        "Built": built,
        "OsArch": f"{system}/{architecture}",
        "Os": system,
    }


def _commit(checkout: str) -> str:
    """The commit a checkout stands at, "" for an installed package."""
    try:
        head = _line(f"{checkout}/.git/HEAD")
        if not head.startswith("ref: "):
            return head
        name = head[5:]
        try:
            return _line(f"{checkout}/.git/{name}")
        except FileNotFoundError:
            with open(f"{checkout}/.git/packed-refs", encoding="utf-8") as file:
                return next((line.split()[0] for line in file if line.rstrip().endswith(" " + name)), "")
    except (OSError, ValueError):
        return ""


def _line(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline().strip()

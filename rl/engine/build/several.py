"""A build for several platforms: one image each, and a manifest list of them under the names that were asked for.

One after the other: a platform's stages run side by side already. The cache is the same, so what does not depend on the
platform is done once. Called by rl.engine.build.build.
"""

from __future__ import annotations

from rl.engine.manifest import lists
from rl.engine.tag import target_name
from rl.engine.untag import untag
from rl.errors import NoSuchImageError, UnsupportedError, UsageError
from rl.image import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.engine.context import Engine

    Event = dict[str, Any]
    One = Callable[[dict[str, Any], Callable[[Event], None]], str]

#: What is about one image.
_SINGLE = ("iidfile", "metadata_file", "output", "arch", "os", "variant", "os_version")


def check(where: str, options: dict[str, Any]) -> None:
    """Raises UnsupportedError, UsageError for what cannot be for several platforms."""
    for name in _SINGLE:
        if name in options:
            flag = name.replace("_", "-")
            raise UnsupportedError(
                f"--{flag} is about one image, and --platform asks for {len(options['platform'])}",
                "build each platform by itself, or leave it out",
            )
    if where == "-" or "-" in options.get("file", []):
        raise UsageError(
            "standard input can be read once, and each platform needs it", "name a directory, or build one platform"
        )
    if options.get("manifest") and options.get("tag"):
        raise UsageError("--tag and --manifest both name the manifest list", "leave one of them out")


def build_each(engine: Engine, options: dict[str, Any], one: One, tell: Callable[[Event], None]) -> str:
    """Build for each of ``platform`` by *one*, which takes the options and *tell*; the ids, a line each."""
    tags, manifest = options.get("tag", []), options.get("manifest", "")
    for name in tags:
        target_name(name)  # a wrong one is told before anything is built
    _warn_once(engine)
    common = {key: value for key, value in options.items() if key not in ("tag", "manifest")}
    ids = []
    for platform in dict.fromkeys(options["platform"]):

        def labelled(event: Event, platform: str = platform) -> None:
            tell({**event, "platform": platform})

        ids.append(one({**common, "platform": [platform]}, labelled))
    if manifest:
        lists.create(engine, manifest, ids, amend=True)
    for name in tags:
        _name(engine, name, ids)
    tell({"kind": "list", "names": [target_name(name) for name in tags or [manifest] if name]})
    return "\n".join(ids)


def _warn_once(engine: Engine) -> None:
    """What is to say about the Containerfile is the same for each platform."""
    said: set[str] = set()
    warn = engine.warn

    def once(text: str) -> None:
        if text not in said:
            said.add(text)
            warn(text)

    engine.warn = once


def _name(engine: Engine, name: str, ids: list[str]) -> None:
    """Give *name* to a list of the images *ids*, whatever had it before."""
    full = target_name(name)
    if lists.exists(engine, full):
        lists.delete(engine, full)
    try:
        if store.find(engine.paths, full)["name"] == full:
            untag(engine, full, [full])
    except NoSuchImageError:
        pass
    lists.create(engine, full, ids)

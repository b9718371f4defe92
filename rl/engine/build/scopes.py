"""Which variables an instruction sees: ARG before FROM, ARG of the stage, ENV, and the predefined ones.

Called by rl.engine.build.steps and rl.engine.build.graph. Source: Dockerfile reference, "ARG", "Scope", "Predefined
ARGs", "Automatic platform ARGs in the global scope".
"""

from __future__ import annotations

from rl.image.archive import this_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Platform = tuple[str, str, str]  # os, architecture, variant

#: Known without ARG, and no part of cache keys and history.
PROXIES = frozenset(
    name
    for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (word, word.upper())
)


def platform_arguments(target: Platform, stage: str) -> dict[str, str]:
    """TARGETPLATFORM and its like, for stages that say ARG with their names."""
    found = {}
    for prefix, (os_, arch, variant) in (("TARGET", target), ("BUILD", this_platform())):
        found[f"{prefix}OS"], found[f"{prefix}ARCH"], found[f"{prefix}VARIANT"] = os_, arch, variant
        found[f"{prefix}PLATFORM"] = "/".join(part for part in (os_, arch, variant) if part)
    found["TARGETSTAGE"] = stage or "default"
    return found


class Scope:
    """The variables at a point of a stage. ``arguments``: of its ARGs so far; ``env``: of ENV, which counts first."""

    __slots__ = ("arguments", "consumed", "env", "given", "known")

    def __init__(self, known: Mapping[str, str], given: Mapping[str, str]) -> None:
        self.known = known  # what ARG without a default takes: global ARGs, platform arguments
        self.given = given  # --build-arg
        self.arguments: dict[str, str | None] = {}
        self.env: dict[str, str] = {}
        self.consumed: set[str] = set()

    def declare(self, name: str, default: str | None) -> str | None:
        """ARG: the value it has from here on; None: it is not set."""
        value = default
        if name in self.given:
            self.consumed.add(name)
            value = self.given[name]
        elif default is None:
            value = self.known.get(name)
        self.arguments[name] = value
        return value

    def variables(self) -> dict[str, str]:
        """All that words may name."""
        arguments = {name: value for name, value in self.arguments.items() if value is not None}
        return {**arguments, **self.env}

    def for_run(self) -> dict[str, str]:
        """What RUN gets beside ENV: the stage's arguments."""
        return {name: value for name, value in self.arguments.items() if value is not None and name not in self.env}

    def shown(self) -> dict[str, str]:
        """The stage's arguments with the values that RUN sees, for its history."""
        variables = self.variables()
        return {name: variables[name] for name in self.arguments if name in variables}

    def proxies(self) -> dict[str, str]:
        """Proxy settings that were given, which RUN gets without ARG."""
        found = {name: value for name, value in self.given.items() if name in PROXIES and name not in self.arguments}
        self.consumed.update(found)
        return found

"""What instructions do to an image's configuration, given their operands as they are meant (expanded, unquoted).

One implementation for builds (rl.engine.build.steps) and for ``--change`` of import and commit (rl.image.changes).

Source: OCI image specification, "Image Configuration"; Dockerfile reference.
"""

from __future__ import annotations

import posixpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]

DEFAULT_SHELL = ["/bin/sh", "-c"]


def set_env(config: Config, new: dict[str, str]) -> None:
    """ENV: a variable that is there keeps its place."""
    lines = list(config.get("Env") or [])
    for name, value in new.items():
        line = f"{name}={value}"
        for number, old in enumerate(lines):
            if old.partition("=")[0] == name:
                lines[number] = line
                break
        else:
            lines.append(line)
    config["Env"] = lines


def unset_env(config: Config, name: str) -> None:
    config["Env"] = [line for line in config.get("Env") or [] if line.partition("=")[0] != name]


def set_labels(config: Config, new: dict[str, str]) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **new}


def set_ports(config: Config, words: list[str]) -> None:
    """EXPOSE 80, 53/udp, 8000-8010/tcp. Raises ValueError with the word that is no port."""
    ports = dict(config.get("ExposedPorts") or {})
    for word in words:
        numbers, _, protocol = word.partition("/")
        first, dash, last = numbers.partition("-")
        last = last if dash else first
        good = first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536
        if not good or (protocol or "tcp").lower() not in ("tcp", "udp", "sctp"):
            raise ValueError(word)
        for port in range(int(first), int(last) + 1):
            ports[f"{port}/{(protocol or 'tcp').lower()}"] = {}
    config["ExposedPorts"] = ports


def set_volumes(config: Config, paths: list[str]) -> None:
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}


def set_workdir(config: Config, path: str) -> None:
    """WORKDIR: a relative one goes on from the last."""
    config["WorkingDir"] = posixpath.normpath(posixpath.join(config.get("WorkingDir") or "/", path))


def set_command(config: Config, key: str, words: list[str] | None) -> None:
    """CMD (Cmd) or ENTRYPOINT (Entrypoint); None takes it away."""
    config.pop(key, None)
    if words is not None:
        config[key] = words


def shell_of(config: Config) -> list[str]:
    """What the shell form of a command is given to."""
    return list(config.get("Shell") or DEFAULT_SHELL)


def env_of(config: Config) -> dict[str, str]:
    """ENV as a mapping."""
    return dict(line.partition("=")[::2] for line in config.get("Env") or [])

"""The container's environment: the image's, the engine's own, --env-host, --env-file, --env, proxies.

Later sources win, as in podman-run(1), "Environment".
"""

from __future__ import annotations

import os

from rl.engine.spec.values import label_files
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY")


def environment(options: Mapping[str, Any], image_env: list[str], host: Mapping[str, str] = os.environ) -> list[str]:
    """``NAME=value`` lines without HOME and HOSTNAME, which depend on the root file system and the id."""
    result: dict[str, str] = {"PATH": DEFAULT_PATH, "container": "rl"}
    if options.get("tty"):
        result["TERM"] = "xterm"
    if options.get("http_proxy", True):
        for name in _PROXIES:
            if name in host:
                result[name] = host[name]
    for line in image_env:
        name, _, value = line.partition("=")
        result[name] = value
    for line in options.get("env_merge", []):
        name, equals, value = line.partition("=")
        if not name or not equals:
            hint = "write --env-merge NAME=VALUE, such as PATH='${PATH}:/opt/bin'"
            raise UsageError(f"--env-merge: {line!r} is not an environment variable", hint)
        result[name] = expand(value, result)
    if options.get("env_host"):
        result.update(host)
    if options.get("unsetenv_all"):
        result.clear()
    for name in options.get("unsetenv", []):
        result.pop(name, None)
    for line in label_files(options.get("env_file", []), "--env-file"):
        _add(result, line, "--env-file", host)
    for line in options.get("env", []):
        _add(result, line, "--env", host)
    return [f"{name}={value}" for name, value in result.items()]


def changes(options: Mapping[str, Any], host: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """--env and --unsetenv of `rl update`: name → new value, None for one to be left out. Raises UsageError."""
    result: dict[str, str | None] = dict.fromkeys(options.get("unsetenv", []))
    for name in result:
        if not name or "=" in name:
            raise UsageError(f"--unsetenv: {name!r} is not a variable's name", "write --unsetenv NAME")
    added: dict[str, str] = {}
    for line in options.get("env", []):
        _add(added, line, "--env", host)
    for name in added:
        if name in result:
            raise UsageError(f"--env and --unsetenv contradict each other for {name}", "use one of them")
    return {**result, **added}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """*text* with ``$NAME``, ``${NAME}``, ``${NAME:-WORD}``, ``${NAME:+WORD}`` replaced, quotes and escapes taken off.

    As in a Containerfile's ENV, which is what Podman makes of --env-merge. Raises UsageError.
    """
    out, at, quote = "", 0, ""
    while at < len(text):
        character = text[at]
        at += 1
        if character == "\\" and quote != "'" and at < len(text):
            out += text[at]
            at += 1
        elif character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        elif character == "$" and quote != "'":
            value, at = _variable(text, at, variables)
            out += value
        else:
            out += character
    return out


def _variable(text: str, at: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """What stands for the variable that begins at *at*, behind the ``$``; and where the text goes on."""
    if text[at : at + 1] == "{":
        end = text.find("}", at)
        name, _, word = text[at + 1 : max(end, 0)].partition(":")
        if end < 0 or not name or word[:1] not in ("", "-", "+"):
            raise UsageError(f"--env-merge: {text!r}: {text[at - 1 :]!r} is not a variable", "write ${NAME}")
        value = variables.get(name, "")
        if word[:1] == "-":
            value = value or word[1:]
        elif word[:1] == "+":
            value = word[1:] if value else ""
        return value, end + 1
    end = at
    while end < len(text) and (text[end] == "_" or (text[end].isascii() and text[end].isalnum())):
        end += 1
    return (variables.get(text[at:end], "") if end > at else "$"), end


def _add(result: dict[str, str], line: str, flag: str, host: Mapping[str, str]) -> None:
    """One ``NAME=value``; ``NAME`` takes the host's value if it has one, ``PRE*`` all that begin with PRE."""
    name, equals, value = line.partition("=")
    if not name or "\0" in line:
        raise UsageError(f"{flag}: {line!r} is not an environment variable", f"write {flag} NAME=value")
    if equals:
        result[name] = value
    elif name.endswith("*"):
        result.update({key: host[key] for key in host if key.startswith(name[:-1])})
    elif name in host:
        result[name] = host[name]

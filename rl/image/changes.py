"""``--change``: Dockerfile instructions applied to an image configuration. Called by import and commit.

Source: the Dockerfile reference; podman-import(1), "--change" (``KEY=VALUE`` is taken for ``KEY VALUE``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl.config.jsonio import loads
from rl.errors import UsageError
from rl.image.containerfile import configure

Config = dict[str, Any]


def apply(config: Config, changes: list[str]) -> None:
    """Change *config*, the ``config`` object of an image configuration. Raises UsageError naming the instruction."""
    given: Any = None  # by a CMD among *changes*, which an ENTRYPOINT after it does not take away
    for change in changes:
        text = change.strip()
        length = next((i for i, character in enumerate(text) if not character.isalpha()), len(text))
        keyword, rest = text[:length].upper(), text[length:].lstrip()
        if rest.startswith("=") and text[length] == "=":
            rest = rest[1:].lstrip()
        elif rest == text[length:] and rest:
            keyword = ""  # neither space nor '=' behind the word
        handler = _INSTRUCTIONS.get(keyword)
        if handler is None:
            raise UsageError(
                f"--change {change!r}: not an instruction that changes an image's configuration",
                f"use one of {', '.join(_INSTRUCTIONS)}",
            )
        if not rest and keyword not in ("CMD", "ENTRYPOINT", "USER"):
            raise UsageError(f"--change {change!r}: {keyword} needs a value", f'for example: --change "{keyword} …"')
        handler(config, rest)
        if keyword == "CMD":
            given = config.get("Cmd")
        elif keyword == "ENTRYPOINT" and given:
            config["Cmd"] = given


def _command(key: str) -> Callable[[Config, str], None]:
    def change(config: Config, text: str) -> None:
        words = _json_list(text) if text.startswith("[") else [*configure.DEFAULT_SHELL, text]
        configure.set_command(config, key, words if text else None)
        if key == "Entrypoint":
            config.pop("Cmd", None)  # as in a Dockerfile: the old arguments were for the old program

    return change


def _json_list(text: str) -> list[str]:
    try:
        value = loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"--change: {text} is not a JSON list of strings", 'write it as ["program", "argument"]')
    return value


def _pairs(text: str, what: str) -> dict[str, str]:
    words = split_words(text)
    if "=" not in words[0]:
        key, _, value = text.partition(" ")  # the old form: ENV KEY all the rest
        if not value.strip():
            raise UsageError(f"--change: {what} {text}: no value", f"write it as {what} key=value")
        return {key: value.strip()}
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--change: {what} {text}: {word!r} is not key=value", "quote values with spaces")
        found[key] = value
    return found


def split_words(text: str) -> list[str]:
    """Words as a Dockerfile splits them: blanks separate, quotes and backslashes hold together."""
    words: list[str] = []
    word, quote, open_word = "", "", False
    characters = iter(text)
    for character in characters:
        if character == "\\" and quote != "'":
            word += next(characters, "\\")
            open_word = True
        elif quote:
            if character == quote:
                quote = ""
            else:
                word += character
        elif character in "\"'":
            quote, open_word = character, True
        elif character.isspace():
            if open_word:
                words.append(word)
            word, open_word = "", False
        else:
            word += character
            open_word = True
    if quote:
        raise UsageError(f"--change: {text}: a {quote} is not closed", "close the quotation")
    return [*words, word] if open_word else words


def _env(config: Config, text: str) -> None:
    configure.set_env(config, _pairs(text, "ENV"))


def _label(config: Config, text: str) -> None:
    configure.set_labels(config, _pairs(text, "LABEL"))


def _expose(config: Config, text: str) -> None:
    try:
        configure.set_ports(config, text.split())
    except ValueError as error:
        hint = "write it as 80, 53/udp or 8000-8010/tcp"
        raise UsageError(f"--change: EXPOSE {error}: not a port", hint) from None


def _volume(config: Config, text: str) -> None:
    paths = _json_list(text) if text.startswith("[") else split_words(text)
    configure.set_volumes(config, paths)


def _workdir(config: Config, text: str) -> None:
    configure.set_workdir(config, split_words(text)[0])


def _set(key: str) -> Callable[[Config, str], None]:
    def change(config: Config, text: str) -> None:
        words = split_words(text)
        if len(words) > 1:
            raise UsageError(f"--change: {text!r} is more than one word", "quote it, or leave out what follows")
        config[key] = words[0] if words else ""

    return change


def _onbuild(config: Config, text: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or []), text]


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _set("StopSignal"),
    "USER": _set("User"),
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

"""Which files of a build context .dockerignore leaves out.

Source: Dockerfile reference, ".dockerignore file"; Go's path/filepath.Match for the patterns; moby/patternmatcher for
the order of rules: the last one that matches a path, or a directory above it, decides.
"""

from __future__ import annotations

import posixpath
import re

from rl.errors import UsageError

#: Files that hold patterns, in the order in which they are looked for.
NAMES = (".containerignore", ".dockerignore")


def patterns(data: bytes) -> list[str]:
    """The patterns in a file: comments and empty lines left out, paths made clean."""
    found = []
    for line in data.decode("utf-8-sig", "surrogateescape").splitlines():
        text = line.strip()
        if not text or line.startswith("#"):
            continue
        negated = text.startswith("!")
        text = text[1:].strip() if negated else text
        if text:
            text = posixpath.normpath(text)
            text = text.lstrip("/") if len(text) > 1 else text
        if text and text != ".":
            found.append(("!" if negated else "") + text)
    return found


class Matcher:
    """Tells of paths relative to the context whether they are left out."""

    __slots__ = ("_rules", "has_exceptions")

    def __init__(self, lines: list[str]) -> None:
        """Raises UsageError for a pattern that is none."""
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in lines:
            negated = line.startswith("!")
            self._rules.append((negated, re.compile(expression(line.removeprefix("!")) + r"(?:/.*)?\Z", re.DOTALL)))
        self.has_exceptions = any(negated for negated, _ in self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excluded(self, path: str) -> bool:
        """Whether *path* (``a/b``, no slash at either end) is left out."""
        for negated, rule in reversed(self._rules):
            if rule.match(path):
                return not negated
        return False

    def skips(self, directory: str) -> bool:
        """Whether nothing below an excluded *directory* can be let in again."""
        return not self.has_exceptions


def expression(pattern: str) -> str:
    """*pattern* of filepath.Match, with ``**`` for any number of directories, as a regular expression without an end.

    Raises UsageError for a pattern that is not well formed.
    """
    result, at = "", 0
    while at < len(pattern):
        character = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
                result += "(?:.*/)?"
            else:
                result += ".*"
            continue
        if character == "*":
            result += "[^/]*"
        elif character == "?":
            result += "[^/]"
        elif character == "[":
            text, at = _class(pattern, at)
            result += text
            continue
        elif character == "\\":
            at += 1
            if at == len(pattern):
                raise UsageError(f"pattern {pattern!r}: a backslash at its end", "write \\\\ for a backslash")
            result += re.escape(pattern[at])
        else:
            result += re.escape(character)
        at += 1
    return result


def _class(pattern: str, at: int) -> tuple[str, int]:
    """[a-z], [^a-z], with backslashes; and where it ends."""
    start, at = at, at + 1
    negated = pattern.startswith("^", at)
    at += negated
    items: list[str] = []
    closed = False
    while at < len(pattern):
        if pattern[at] == "]" and items:
            at, closed = at + 1, True
            break
        if pattern[at] == "-" and items[-1:] != ["-"] and items and at + 1 < len(pattern) and pattern[at + 1] != "]":
            items.append("-")
            at += 1
            continue
        if pattern[at] == "\\":
            at += 1
        if at < len(pattern):
            items.append(re.escape(pattern[at]))
        at += 1
    text = f"[{'^/' if negated else ''}{''.join(items)}]"
    try:
        re.compile(text)
    except re.error:
        closed = False
    if not closed:
        raise UsageError(f"pattern {pattern!r}: [ is not closed, or its range is none", f"see {pattern[start:]!r}")
    return text, at

"""Which commands and flags of `rl` the tests have driven, by the tables of rl/cli themselves.

`support.users` notes every command line that a test gives to the installed `rl`; tests/system/test_every_flag.py asks at
the end of a complete run. A line that the parser refuses drives nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from rl.cli import parse
from rl.cli.dispatch import load
from rl.cli.verbs import VERBS, find

#: (module of the verb, first long name of the flag); "" stands for the verb itself
seen: set[tuple[str, str]] = set()


def note(words: Sequence[str]) -> None:
    """Remember the command line *words*, without the program."""
    try:
        given, rest = parse.read((parse.GLOBAL,), list(words), interspersed=False)
        module, count = find(rest) if rest else ("", 0)
        if not module:
            return
        verb = load(module)
        options, _ = parse.read((verb.OPTIONS, parse.GLOBAL), rest[count:], verb.INTERSPERSED)
    except parse.Refused:
        return
    seen.add((module, ""))
    for key in options:
        seen.add((module, key))
    for key in given:
        seen.add(("", key))


def note_command(words: Sequence[str]) -> None:
    """Remember every `rl` in a command: it itself, what it starts, and the lines of a script for a shell."""
    for number, word in enumerate(words):
        if word == "rl" or word.endswith("/bin/rl"):
            rest = list(words[number + 1 :])
            note(rest)
            if "unshare" in rest:  # what it runs is a command of this host
                note_command(rest[rest.index("unshare") + 1 :])
            return
        if "rl " in word and number and words[number - 1].startswith("-") and words[number - 1].endswith("c"):
            for line in re.split(r"[;&|\n()`]", word):
                try:
                    note_command(shlex.split(line))
                except ValueError:
                    continue  # a quote that spans what was split


def wanted(nouns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What there is to drive: every verb of *nouns* (folders of rl/cli) with each of its flags."""
    for module, _, _ in VERBS:
        if module.partition(".")[0] in nouns:
            yield module, ""
            for row in load(module).OPTIONS:
                yield module, parse.key_of(row[0])

"""Two readers of one table: whatever the fast one accepts, click must read in the same way."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rl.cli import clicked, dispatch, parse, verbs

MODULES = [module for module, _, _ in verbs.VERBS]


def read_with_click(verb: Any, line: list[str]) -> tuple[dict[str, Any], list[str]]:
    seen: list[tuple[dict[str, Any], list[str]]] = []

    def invoked(options: dict[str, Any], arguments: list[str]) -> int:
        seen.append((options, arguments))
        return 0

    clicked.Verb("x", verb, invoked).main(line, prog_name="x", standalone_mode=False)
    return seen[0]


def value_for(row: parse.Row, dice: random.Random) -> str:
    check = row[4] if len(row) > 4 else None
    if isinstance(check, tuple):
        return dice.choice(check)
    if check in ("int", "uint", "float"):
        return dice.choice({"int": ["-1", "0", "7"], "uint": ["0", "10"], "float": ["0.5", "2", "-1"]}[check])
    return dice.choice(["x", "a=b", "a,b", "-1", "--rm", "", "8080:80", '"q,r",s', "/dev/null", "ünïcode", "-"])


def words_for(row: parse.Row, dice: random.Random) -> list[str]:
    name = dice.choice(row[0].split(" "))
    if row[1] == "flag":
        return [name if dice.random() < 0.7 else f"{name}={dice.choice(['true', 'false', '1', 'F'])}"]
    value = value_for(row, dice)
    if name.startswith("--"):
        return [f"{name}={value}"] if dice.random() < 0.5 else [name, value]
    return dice.choice([[name, value], [f"{name}{value}"] if value else [name, value], [f"{name}={value}"]])


def line_for(verb: Any, dice: random.Random) -> list[str]:
    line: list[str] = []
    rows = [*verb.OPTIONS, *parse.GLOBAL]
    for _ in range(dice.randrange(5)):
        line += words_for(dice.choice(rows), dice)
    flags = [name[1] for row in verb.OPTIONS if row[1] == "flag" for name in row[0].split(" ") if len(name) == 2]
    if flags and dice.random() < 0.3:
        line.append("-" + "".join(dice.sample(flags, min(2, len(flags)))))
    for _ in range(dice.randrange(3)):
        line.append(dice.choice(["web", "-", "name with space", "--", "a=b"]))
        if dice.random() < 0.5:
            line += words_for(dice.choice(rows), dice)
    return line


@pytest.mark.parametrize("module", MODULES)
def test_same_answers(module: str) -> None:
    verb = dispatch.load(module)
    dice = random.Random(module)
    agreed = 0
    for _ in range(60):
        line = line_for(verb, dice)
        try:
            fast = parse.read((verb.OPTIONS, parse.GLOBAL), line, verb.INTERSPERSED)
        except parse.Refused:
            continue
        assert read_with_click(verb, line) == fast, line
        agreed += 1
    assert agreed > 30


@pytest.mark.parametrize("module", MODULES)
def test_tables_are_well_formed(module: str) -> None:
    verb = dispatch.load(module)
    names = [name for row in verb.OPTIONS for name in row[0].split(" ")]
    assert len(names) == len(set(names))
    for row in verb.OPTIONS:
        assert row[1] in ("flag", "optional", "value", "array", "list"), row
        assert row[3] and not row[3].endswith("."), row
        assert (row[1] == "flag") == (row[2] == ""), row
    least, most = verb.ARGUMENTS
    assert least >= 0 and (most is None or most >= least)
    assert verb.HELP.strip() and callable(verb.run) and verb.USAGE.strip() == verb.USAGE


def test_every_command_has_one_module() -> None:
    names = [name for _, words, _ in verbs.VERBS for name in words]
    assert len(names) == len(set(names))
    for name in names:
        module, count = verbs.find(name.split(" "))
        assert module and count == len(name.split(" "))
    assert verbs.find(["nonsense"]) == ("", 0)
    assert verbs.find(["image", "nonsense"])[0] == ""

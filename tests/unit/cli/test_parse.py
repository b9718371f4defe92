"""The fast reader: Podman's dialect of options."""

from __future__ import annotations

from typing import Any

import pytest

from rl.cli import parse
from rl.cli.container.options import CREATE, RUN
from rl.errors import UsageError

TABLE = (*CREATE, *RUN)

RIGHT: list[tuple[str, dict[str, Any], list[str]]] = [
    ("busybox", {}, ["busybox"]),
    ("-it busybox sh", {"interactive": True, "tty": True}, ["busybox", "sh"]),
    ("-dp 8080:80 web", {"detach": True, "publish": ["8080:80"]}, ["web"]),
    ("-p8080:80 web", {"publish": ["8080:80"]}, ["web"]),
    ("-p=8080:80 web", {"publish": ["8080:80"]}, ["web"]),
    ("-p 80:80,81:81 -p 82:82 web", {"publish": ["80:80", "81:81", "82:82"]}, ["web"]),
    ("--name=x --name y web", {"name": "y"}, ["web"]),
    ("--name= web", {"name": ""}, ["web"]),
    ("--rm=false --init=T web", {"rm": False, "init": True}, ["web"]),
    ("-t=false web", {"tty": False}, ["web"]),
    ("-it=0 web", {"interactive": True, "tty": False}, ["web"]),
    ("--pids-limit -1 web", {"pids_limit": -1}, ["web"]),
    ("--cpus 1.5 -c 512 web", {"cpus": 1.5, "cpu_shares": 512}, ["web"]),
    ("-e A=1 -eB -e C=x=y,z web", {"env": ["A=1", "B", "C=x=y,z"]}, ["web"]),
    ("--net host --network=none web", {"network": ["host", "none"]}, ["web"]),
    ("-e --rm web", {"env": ["--rm"]}, ["web"]),
    ("-- web --rm", {}, ["web", "--rm"]),
    ("web -- --rm -it", {}, ["web", "--", "--rm", "-it"]),
    ("--rm - x", {"rm": True}, ["-", "x"]),
    ("-h host web", {"hostname": "host"}, ["web"]),
    ("-vsrc:/dst:ro web", {"volume": ["src:/dst:ro"]}, ["web"]),
    ('--entrypoint ["a","b"] web', {"entrypoint": '["a","b"]'}, ["web"]),
    ("--pull=never web", {"pull": "never"}, ["web"]),
    ("--cap-add= web", {"cap_add": []}, ["web"]),
]


@pytest.mark.parametrize(("line", "options", "arguments"), RIGHT, ids=[line for line, _, _ in RIGHT])
def test_right(line: str, options: dict[str, Any], arguments: list[str]) -> None:
    assert parse.read((TABLE,), line.split(" "), interspersed=False) == (options, arguments)


WRONG = [
    "--nonsense web",
    "-Z web",
    "-p",
    "--name",
    "--rm=maybe web",
    "--pids-limit many web",
    "--cpus x web",
    "--cpus nan web",
    "--cpu-shares -1 web",
    "--pull sometimes web",
    "--help",
    "--=x web",
    '--dns "1 web',
    "-itZ web",
]


@pytest.mark.parametrize("line", WRONG)
def test_refused(line: str) -> None:
    with pytest.raises(parse.Refused):
        parse.read((TABLE,), line.split(" "), interspersed=False)


def test_options_after_arguments() -> None:
    table = (("-a --all", "flag", "", "All"), ("-t --time", "value", "N", "Seconds", "int"))
    assert parse.read((table,), ["one", "-a", "two", "-t", "5"]) == ({"all": True, "time": 5}, ["one", "two"])
    assert parse.read((table,), ["one", "--", "-a"]) == ({}, ["one", "-a"])


def test_first_table_wins() -> None:
    own = (("--root", "flag", "", "A flag of the verb"),)
    assert parse.read((own, parse.GLOBAL), ["--root", "--runroot", "/r"]) == ({"root": True, "runroot": "/r"}, [])


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a,", ["a", ""]),
        ('"a,b",c', ["a,b", "c"]),
        ('"a""b"', ['a"b']),
        ('x,"y, z"', ["x", "y, z"]),
        ('"",a', ["", "a"]),
    ],
)
def test_csv(text: str, fields: list[str]) -> None:
    assert parse.split_list(text) == fields


@pytest.mark.parametrize("text", ['"a', '"a"b', 'a"b'])
def test_csv_errors(text: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        parse.split_list(text)


@pytest.mark.parametrize(
    ("count", "least", "most", "fits"),
    [
        (0, 0, 0, True),
        (1, 0, 0, False),
        (0, 1, None, False),
        (5, 1, None, True),
        (3, 1, 2, False),
        (1, 1, 1, True),
        (2, 1, 1, False),
    ],
)
def test_count(count: int, least: int, most: int | None, fits: bool) -> None:
    if fits:
        parse.check_count("rl x", ["a"] * count, least, most)
        return
    with pytest.raises(UsageError):
        parse.check_count("rl x", ["a"] * count, least, most)

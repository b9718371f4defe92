"""Tables, JSON, YAML, --format; times and sizes as Podman prints them."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from rl.cli import output
from rl.engine import times
from rl.errors import UsageError

ROWS = [
    {"ID": "0123456789ab", "Names": "web", "Status": "Up 3 seconds", "Labels": {"a": "b"}},
    {"ID": "ba9876543210", "Names": "a_rather_long_name", "Status": "", "Labels": {}},
]
COLUMNS = (("CONTAINER ID", "ID"), ("NAMES", "Names"), ("STATUS", "Status"))


@pytest.mark.parametrize(
    ("text", "heading", "expected"),
    [
        (
            "",
            True,
            "CONTAINER ID  NAMES               STATUS\n0123456789ab  web                 Up 3 seconds\n"
            "ba9876543210  a_rather_long_name  \n",
        ),
        ("table", False, "0123456789ab  web                 Up 3 seconds\nba9876543210  a_rather_long_name  \n"),
        ("{{.ID}}", True, "0123456789ab\nba9876543210\n"),
        ("{{.ID}}\\t{{.Names}}", True, "0123456789ab\tweb\nba9876543210\ta_rather_long_name\n"),
        ("{{.Names}}\\n", True, "web\na_rather_long_name\n"),
        (
            "table {{.Names}} {{.ID}}",
            True,
            "NAMES               CONTAINER ID\nweb                 0123456789ab\na_rather_long_name  ba9876543210\n",
        ),
        ("table {{.ID}}\\t{{upper .Names}}", False, "0123456789ab  WEB\nba9876543210  A_RATHER_LONG_NAME\n"),
    ],
)
def test_rows(capsys: pytest.CaptureFixture[str], text: str, heading: bool, expected: str) -> None:
    output.print_rows(text, ROWS, COLUMNS, heading)
    assert capsys.readouterr().out == expected


def test_narrow_columns_are_twelve_wide() -> None:
    assert output.table([["A", "B", "C"], ["1", "2", "3"]]) == "A           B           C\n1           2           3\n"
    assert output.table([]) == ""


DOCUMENTS = [
    {},
    [],
    {"a": []},
    {"a": {}, "b": [1, 2.5, None, True, False]},
    "text",
    {'ü\n"': "<&>\\\t"},
    [{"a": {"b": [{"c": 1}]}}, "x"],
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_json(document: object) -> None:
    assert json.loads(output.to_json(document)) == document
    assert output.to_json(document, "  ") == json.dumps(document, indent=2, ensure_ascii=False)
    assert output.to_json(document) == json.dumps(document, separators=(",", ":"), ensure_ascii=False)


YAML_DOCUMENTS = [
    {"host": {"arch": "amd64", "cpus": 2, "empty": "", "none": None, "yes": "yes", "true": True}},
    {
        "list": [
            "a",
            "b: c",
            "- d",
            "#e",
            "1",
            "1.5",
            "0x10",
            "2026-01-02",
            "x #y",
            "it's",
            '"q"',
            "end:",
            "null",
            "1e5",
            "12e3",
        ]
    },
    {"nested": [{"a": 1, "b": [1, 2]}, {"c": {}}, []]},
    {"version": "0.1.0", "id": "0123456789ab", "size": "1.98MB", "time": "12:30:00"},
]


@pytest.mark.parametrize("document", YAML_DOCUMENTS, ids=str)
def test_yaml(document: object) -> None:
    assert yaml.safe_load(output.to_yaml(document)) == document


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1997895, "2MB"),
        (1980000, "1.98MB"),
        (999_999, "1MB"),
        (187 * 10**6, "187MB"),
        (4_540_000_000, "4.54GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert times.human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"),
        (700 * 86400, "23 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert times.human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-23T22:28:57.968912684Z", 1795472937968912684),
        ("2026-11-23T23:28:57+01:00", 1795472937 * 10**9),
        ("2000-02-29T12:00:00.5Z", 951825600500000000),
        ("0001-01-01T00:00:00Z", times.NEVER * 10**9),
        ("", 0),
        ("1969-12-31T23:59:59Z", -(10**9)),
    ],
)
def test_epoch(text: str, ns: int) -> None:
    assert times.epoch_ns(text) == ns


@pytest.mark.parametrize("text", ["soon", "2026-13-01T00:00:00Z", "2026-01-01 00:00", "2026-01-01T00:00:00X"])
def test_no_time(text: str) -> None:
    with pytest.raises(UsageError):
        times.epoch_ns(text)


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = time.time_ns()
    for text, before in (("10m", 600), ("1h30m", 5400), ("1.5s", 1.5), ("2d", 172800)):
        assert abs(now - times.moment_ns(text) - before * 10**9) < 5 * 10**9
    assert times.moment_ns("1795472937") == 1795472937 * 10**9
    assert times.moment_ns("1.5") == 1_500_000_000
    assert times.moment_ns("2026-11-23") == times.epoch_ns("2026-11-23T00:00:00Z")
    assert times.moment_ns("2026-11-23T22:28:57") == 1795472937 * 10**9
    for text in ("m", "10", "10x", "later", "1..5s", ""):
        if text != "10":
            with pytest.raises(UsageError):
                times.moment_ns(text)


def test_go_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert times.go_time("2026-11-23T22:28:57.968912684Z") == "2026-11-23 22:28:57.968912684 +0000 UTC"
    assert times.go_time("") == "0001-01-01 00:00:00 +0000 UTC"

"""Health checks without a container: the rules, and the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rl.config.jsonio import read_json
from rl.monitor import probe

CHECK: Any = {"retries": 3}
#: (results: a code, or None for a failure that is excused), status and streak after them
LIVES: list[tuple[list[int | None], str, int]] = [
    ([], "starting", 0), ([0], "healthy", 0), ([1], "starting", 1), ([1, 1, -1], "unhealthy", 3), ([1, 1, 0, 1, 1], "healthy", 2),
    ([0, 1, 1, 127], "unhealthy", 3), ([1, 1, 1, 0], "healthy", 0), ([None, None, None, None], "starting", 0), ([1, None, 1, 1], "unhealthy", 3),
]  # fmt: skip


@pytest.mark.parametrize(("results", "status", "streak"), LIVES)
def test_rules(results: list[int | None], status: str, streak: int) -> None:
    health: Any = {"starting": False, "status": "starting", "streak": 0, "passes": 0, "passed": False}
    for code in results:
        health.update(probe.judge(health, CHECK, 1 if code is None else code, code is None))
    assert (health["status"], health["streak"]) == (status, streak)
    assert health["passed"] == (0 in results)


@pytest.mark.parametrize(
    ("success", "results", "starting", "streak"),
    [(1, [1, 1], True, 2), (1, [1, 0], False, 0), (2, [0, 1, 0], True, 0), (2, [0, 0], False, 0), (3, [0, 0, 1], True, 1)],
)
def test_startup_rules(success: int, results: list[int], starting: bool, streak: int) -> None:
    """It decides only whether the other check begins: the status stays."""
    health: Any = {"starting": True, "status": "starting", "streak": 0, "passes": 0, "passed": False}
    check: Any = {"retries": 0, "success": success}
    for code in results:
        health.update(probe.judge(health, check, code, False))
    assert (health["starting"], health["streak"], health["status"]) == (starting, streak, "starting")


def entry(number: int) -> Any:
    return {"Start": f"s{number}", "End": f"e{number}", "ExitCode": number, "Output": "x"}


@pytest.mark.parametrize(("count", "kept"), [(2, [5, 6]), (0, list(range(7))), (5, [2, 3, 4, 5, 6])])
def test_record(tmp_path: Path, count: int, kept: list[int]) -> None:
    config = {"max_log_count": count, "log_destination": str(tmp_path)}
    params: Any = {"container_dir": str(tmp_path), "id": "abc"}
    for number in range(7):
        probe._record(params, {"status": "healthy", "streak": number, "config": config}, entry(number))
    record = read_json(f"{tmp_path}/health.json")
    assert [one["ExitCode"] for one in record["log"]] == kept
    assert (record["status"], record["failing_streak"]) == ("healthy", 6)
    document = read_json(f"{tmp_path}/abc-healthcheck.log")
    assert document == {"Status": "healthy", "FailingStreak": 6, "Log": record["log"]}


@pytest.mark.parametrize("text", [None, "", "\0\0", "[]", "{}", '{"log": 3}', '{"log"'])
def test_torn_record(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "health.json"
    if text is not None:
        path.write_text(text)
    assert probe.read_log(str(path)) == []

"""Health check flags and the image's HEALTHCHECK, without a container."""

from __future__ import annotations

from typing import Any

import pytest

from rl.engine.spec.health import changed, command, duration, health
from rl.errors import RlError, UsageError

S = 10**9
SHELL = ["/bin/sh", "-c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30 * S), ("1m30s", 90 * S), ("1.5s", 3 * S // 2), ("500ms", S // 2), ("2h45m", 9900 * S), (".5s", S // 2),
        ("1.s", S), ("0", 0), ("0s", 0), ("+3s", 3 * S), ("7us", 7000), ("7µs", 7000), ("7μs", 7000), ("9ns", 9),
        ("1h0.001s", 3600 * S + S // 1000),
    ],
)  # fmt: skip
def test_duration(text: str, expected: int) -> None:
    assert duration(text, "x") == expected


@pytest.mark.parametrize("text", ["", "5", "s", ".s", "1x", "1 s", "1s2", "s1", "1e3s", "1s-1s", "--1s", "١s", "1..5s", "disable", "-"])
def test_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="invalid healthcheck-x"):
        duration(text, "healthcheck-x")


def test_negative_duration() -> None:
    with pytest.raises(UsageError, match="must be 0 seconds or greater"):
        duration("-5s", "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("curl -f x", ["CMD-SHELL", "curl -f x"]), ('["curl","-f x"]', ["CMD", "curl", "-f x"]), ('["curl -f"]', ["CMD-SHELL", "curl -f"]),
        ('["CMD","a","b c"]', ["CMD", "a", "b c"]), ('["cmd-shell","a b"]', ["CMD-SHELL", "a b"]), ('["NONE"]', ["NONE"]),
        ("CMD curl  -f", ["CMD", "curl", "-f"]), ("CMD-SHELL curl | x", ["CMD-SHELL", "curl | x"]), ("none", ["NONE"]), ("NONE", ["NONE"]),
        ("[ -e /x ]", ["CMD-SHELL", "[ -e /x ]"]), ('{"a"', ["CMD-SHELL", '{"a"']),  # the shell's own, not JSON
    ],
)  # fmt: skip
def test_command(text: str, expected: list[str]) -> None:
    assert command(text) == expected


@pytest.mark.parametrize("text", ['["CMD"]', "CMD", "CMD-SHELL ", "[]", "[1]", '["CMD-SHELL",""]', '["a", 2]'])
def test_no_command(text: str) -> None:
    with pytest.raises(UsageError):
        command(text)


def test_image() -> None:
    """Docker's nanoseconds; what is zero or missing is the default; SHELL is the image's own."""
    assert health({}, {}) is None
    assert health({}, {"Healthcheck": {"Test": []}}) is None
    assert health({}, {"Healthcheck": {"Test": ["NONE"]}}) == {"test": ["NONE"]}
    found = health({}, {"Healthcheck": {"Test": ["CMD-SHELL", "x"], "Retries": 0, "StartPeriod": S, "StartInterval": 5}, "Shell": ["/bin/ash", "-ec"]})
    assert found == {
        "test": ["CMD-SHELL", "x"], "shell": ["/bin/ash", "-ec"], "interval": 30 * S, "timeout": 30 * S, "retries": 3, "start_period": S,
        "start_interval": 5, "on_failure": "none", "max_log_count": 5, "max_log_size": 500, "log_destination": "local",
    }  # fmt: skip


def test_flags_change_the_images_check() -> None:
    image = {"Healthcheck": {"Test": ["CMD", "x"], "Interval": 7 * S, "Timeout": 2 * S, "Retries": 9}}
    found = health({"health_interval": "disable", "health_retries": 4}, image)
    assert found and (found["test"], found["interval"], found["timeout"], found["retries"]) == (["CMD", "x"], 0, 2 * S, 4)
    found = health({"health_cmd": "y"}, image)  # another check has nothing of the image's
    assert found and (found["test"], found["shell"], found["interval"]) == (["CMD-SHELL", "y"], SHELL, 30 * S)
    assert health({"no_healthcheck": True}, image) == {"test": ["NONE"]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"health_interval": "3s"}, "without a health check"), ({"health_on_failure": "stop"}, "on-failure action to stop without"),
        ({"health_cmd": "x", "health_startup_interval": "3s"}, "without a start-up check"),
        ({"health_cmd": "x", "health_startup_cmd": "none"}, "none is no command"),
        ({"health_cmd": "x", "health_startup_cmd": "y", "health_startup_timeout": "0s"}, "healthcheck-startup-timeout"),
        ({"health_cmd": "x", "health_timeout": "0s"}, "at least 1 second"), ({"health_cmd": "x", "health_retries": 0}, "greater than 0"),
        ({"health_cmd": "x", "health_log_destination": "/no/such"}, "no such directory"),
        ({"no_healthcheck": True, "health_cmd": "x"}, "cannot specify both"),
    ],
)  # fmt: skip
def test_bad(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RlError, match=says):
        health(options, {})


def test_startup() -> None:
    found = health({"health_cmd": "x", "health_startup_cmd": '["a","b"]', "health_startup_success": 0}, {})
    assert found and found["startup"] == {
        "test": ["CMD", "a", "b"], "shell": SHELL, "interval": 30 * S, "timeout": 30 * S, "retries": 0, "success": 1,
    }  # fmt: skip


def test_changed() -> None:
    """`rl update`: what is not named stays; a copy, for the record is the caller's."""
    present = health({"health_cmd": "x", "health_retries": 7, "health_on_failure": "kill", "health_startup_cmd": "y"}, {})
    assert present
    before = {**present, "startup": {**present["startup"]}}
    found = changed({"health_cmd": '["a","b"]', "health_interval": "5s", "health_startup_retries": 2, "health_max_log_count": 1}, present)
    assert present == before
    assert found == {**present, "test": ["CMD", "a", "b"], "interval": 5 * S, "max_log_count": 1, "startup": {**present["startup"], "retries": 2}}
    assert changed({"no_healthcheck": True}, present) == {"test": ["NONE"]}
    assert changed({"health_cmd": "x"}, None) == changed({"health_cmd": "x"}, {"test": ["NONE"]}) == health({"health_cmd": "x"}, {})
    with pytest.raises(UsageError, match="without a health check"):
        changed({"health_interval": "5s"}, None)

"""Health check flags and the image's HEALTHCHECK: how a container is to be probed.

Called by :mod:`rl.engine.create` and update, and only where there is one of them. Sources: podman-run(1), the OCI image
specification's ``Healthcheck`` of Docker-format images.
"""

from __future__ import annotations

import os

from rl.config.jsonio import loads
from rl.errors import NotFoundError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import HealthCheck, HealthConfig

ACTIONS = ("none", "kill", "restart", "stop")
SECOND = 10**9
_UNITS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND,
}  # fmt: skip
_SHELL = ["/bin/sh", "-c"]
_INTERVAL = _TIMEOUT = 30 * SECOND
_RETRIES = 3
#: The flags that say more about a check that there must be; those of the start-up check.
_DETAILS = (
    "health_interval", "health_timeout", "health_retries", "health_start_period", "health_start_interval",
    "health_on_failure", "health_log_destination", "health_max_log_count", "health_max_log_size",
    "health_startup_cmd",
)  # fmt: skip
_STARTUP = ("health_startup_interval", "health_startup_timeout", "health_startup_retries", "health_startup_success")


def duration(text: str, flag: str) -> int:
    """Nanoseconds of a duration such as ``1m30s`` or ``1.5s``. Raises UsageError."""
    rest = text.removeprefix("+")
    total = 0
    try:
        if rest == "0":
            return 0
        while True:
            digits = len(rest) - len(rest.lstrip("0123456789."))
            unit = len(rest) - digits - len(rest[digits:].lstrip("nuµμmsh"))
            whole, _, fraction = rest[:digits].partition(".")
            scale = _UNITS[rest[digits : digits + unit]]
            total += int(whole or ("0" if fraction else "")) * scale
            total += int(fraction or "0") * scale // int("1" + "0" * len(fraction))
            rest = rest[digits + unit :]
            if not rest:
                return total
    except (KeyError, ValueError):
        if text.startswith("-") and text[1:2].isdigit():
            raise UsageError(f"{flag} must be 0 seconds or greater", "write it as 30s, 1m30s or 500ms") from None
        raise UsageError(f"invalid {flag}: {text!r} is not a duration", "write it as 30s, 1m30s or 500ms") from None


def health(options: dict[str, Any], image: dict[str, Any]) -> HealthConfig | None:
    """The health check of a container, from its flags and the image's config; None where there is none.

    ``{"test": ["NONE"]}`` where one was refused. Flags that need one are an error without it. Raises UsageError,
    NotFoundError.
    """
    if options.get("no_healthcheck"):
        return _refused(options)
    return _completed(_own(options["health_cmd"]) if options.get("health_cmd") else _of_image(image), options)


def changed(options: dict[str, Any], present: HealthConfig | None) -> HealthConfig | None:
    """As :func:`health`, of a container that has *present*: what the flags do not name stays as it is."""
    if options.get("no_healthcheck"):
        return _refused(options)
    found = present.copy() if present and present["test"] != ["NONE"] else None
    if options.get("health_cmd"):
        own = _own(options["health_cmd"])
        found = own if found is None else {**found, "test": own["test"], "shell": own["shell"]}
    return _completed(found, options)


def _refused(options: dict[str, Any]) -> HealthConfig:
    for key in options:
        if key.startswith("health_"):
            raise UsageError(f"cannot specify both --no-healthcheck and {_flag(key)}", "leave one of them out")
    return {"test": ["NONE"]}


def _completed(found: HealthConfig | None, options: dict[str, Any]) -> HealthConfig | None:
    """*found* with all that the flags say of it."""
    if found is None or found["test"] == ["NONE"]:
        needing = [key for key in (*_DETAILS, *_STARTUP) if key in options]
        if needing:
            action = options.get("health_on_failure")
            what = f"on-failure action to {action}" if action else _flag(needing[0])
            raise UsageError(f"cannot set {what} without a health check", "add --health-cmd")
        return found
    _times(found, options)
    _actions(found, options)
    _log(found, options)
    if options.get("health_startup_cmd"):
        test = command(options["health_startup_cmd"])
        if test == ["NONE"]:
            raise UsageError("--health-startup-cmd: none is no command", "leave it out")
        # By default it may fail for ever, and one success will do.
        usual: HealthCheck = {
            "test": test, "shell": _SHELL, "interval": _INTERVAL, "timeout": _TIMEOUT, "retries": 0, "success": 1,
        }  # fmt: skip
        found["startup"] = {**found.get("startup", usual), "test": test}
    if "startup" in found:
        found["startup"] = found["startup"].copy()
        _times(found["startup"], options, "health_startup")
        if "health_startup_success" in options:
            found["startup"]["success"] = max(1, options["health_startup_success"])
    else:
        for key in _STARTUP:
            if key in options:
                raise UsageError(f"cannot set {_flag(key)} without a start-up check", "add --health-startup-cmd")
    return found


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def command(text: str) -> list[str]:
    """What ``--health-cmd`` means, in the form of images: a JSON array of words, or a line for the shell.

    A line that begins with CMD, CMD-SHELL or NONE is one that was copied from there.
    """
    if text.startswith("["):
        try:
            words = loads(text)
        except ValueError:
            words = None
        if words is not None:
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                raise UsageError(f"health check {text!r} is not an array of strings", 'write \'["CMD", "word"]\'')
            kind = words[0].upper()
            if kind in ("CMD", "CMD-SHELL", "NONE"):
                return _checked([kind, *words[1:]], text)
            return ["CMD-SHELL", words[0]] if len(words) == 1 else ["CMD", *words]
    kind, _, rest = text.partition(" ")
    if text.strip().upper() == "NONE":
        return ["NONE"]
    if kind.upper() == "CMD-SHELL":
        return _checked(["CMD-SHELL", *([rest.strip()] if rest.strip() else [])], text)
    return _checked(["CMD", *rest.split()], text) if kind.upper() == "CMD" else ["CMD-SHELL", text]


def _checked(test: list[str], text: str) -> list[str]:
    if test[0] == "NONE":
        return ["NONE"]
    if not any(test[1:]):
        raise UsageError(f"must define a healthcheck command for all healthchecks: {text!r} has none")
    return test


def _own(text: str) -> HealthConfig:
    return {"test": command(text), "shell": _SHELL, "interval": _INTERVAL, "timeout": _TIMEOUT, "retries": _RETRIES}


def _of_image(image: dict[str, Any]) -> HealthConfig | None:
    given = image.get("Healthcheck") or {}
    test = given.get("Test") or []
    if not test:
        return None
    if test[0] == "NONE" or not any(test[1:]):
        return {"test": ["NONE"]}
    found: HealthConfig = {
        "test": list(test), "shell": list(image.get("Shell") or _SHELL), "interval": given.get("Interval") or _INTERVAL,
        "timeout": given.get("Timeout") or _TIMEOUT, "retries": given.get("Retries") or _RETRIES,
    }
    if given.get("StartPeriod"):
        found["start_period"] = given["StartPeriod"]
    if given.get("StartInterval"):
        found["start_interval"] = given["StartInterval"]
    return found


def _times(found: HealthCheck, options: dict[str, Any], prefix: str = "health") -> None:
    """Interval, timeout and retries; for the start-up check too."""
    name = prefix.replace("_", "-").replace("health", "healthcheck")
    if f"{prefix}_interval" in options:
        text = options[f"{prefix}_interval"]
        found["interval"] = 0 if text == "disable" else duration(text, f"{name}-interval")
    if f"{prefix}_timeout" in options:
        found["timeout"] = duration(options[f"{prefix}_timeout"], f"{name}-timeout")
        if found["timeout"] < 1:
            raise UsageError(f"{name}-timeout must be at least 1 second", "leave it out for 30s")
    if f"{prefix}_retries" in options:
        found["retries"] = options[f"{prefix}_retries"]
        if found["retries"] < 1 and prefix == "health":
            raise UsageError(f"{name}-retries must be greater than 0", "leave it out for 3")


def _actions(found: HealthConfig, options: dict[str, Any]) -> None:
    for key in ("start_period", "start_interval"):
        if f"health_{key}" in options:
            flag = f"healthcheck-{key.replace('_', '-')}"
            found[key] = duration(options[f"health_{key}"], flag)
    action = options.get("health_on_failure", found.get("on_failure", "none"))
    if action not in ACTIONS:
        supported = f"supported actions are {','.join(ACTIONS)}"
        raise UsageError(f'invalid on-failure action "{action}" for health check: {supported}')
    found["on_failure"] = action


def _log(found: HealthConfig, options: dict[str, Any]) -> None:
    found["max_log_count"] = options.get("health_max_log_count", found.get("max_log_count", 5))
    found["max_log_size"] = options.get("health_max_log_size", found.get("max_log_size", 500))
    where = options.get("health_log_destination") or found.get("log_destination", "local")
    if where not in ("local", "events_logger"):
        path = os.path.abspath(where)
        if not os.path.isdir(path):
            raise NotFoundError(f"--health-log-destination {where}: no such directory", "use local or events_logger")
        where = path
    found["log_destination"] = where

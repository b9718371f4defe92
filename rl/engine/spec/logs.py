"""--log-driver and --log-opt: where a container's output goes."""

from __future__ import annotations

from rl.engine.spec import values
from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, LogConfig
    from rl.engine.context import Engine

DRIVERS = ("k8s-file", "journald", "json-file", "none", "passthrough")
_SIZE = 10 << 20  # rotation is on by default: 10 MiB and one older file
_OWN_FIELDS = ("MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "CONTAINER_ID", "CONTAINER_ID_FULL", "CONTAINER_NAME",
               "CONTAINER_TAG", "CONTAINER_PARTIAL_MESSAGE")


def log_config(path: str, options: dict[str, Any]) -> LogConfig:
    """What *options* ask for; *path* is where a log file is, unless they say otherwise.

    Raises UsageError; UnsupportedError for journald where no journal runs.
    """
    driver = options.get("log_driver", "k8s-file")
    if driver not in DRIVERS:
        raise UsageError(f"--log-driver: {driver!r} is not available", f"use {', '.join(DRIVERS)}")
    journald = driver == "journald"
    if journald:
        _require_journal()
    log: LogConfig = {
        "driver": driver, "path": "" if journald else path, "max_size": 0 if journald else _SIZE, "max_file": 2,
        "tag": "",
    }  # fmt: skip
    for item in options.get("log_opt", []):
        key, _, value = item.partition("=")
        if journald:
            _journald_option(log, key, value)
        else:
            _file_option(log, key, value)
    if driver == "passthrough" and options.get("tty"):
        raise UsageError("--log-driver=passthrough cannot be used with --tty: the caller's own terminal is passed on")
    return log


def _require_journal() -> None:
    from rl.monitor.logs_journald import problem

    if reason := problem():
        hint = "leave --log-driver out for a log file, or start it: sudo systemctl start systemd-journald.socket"
        raise UnsupportedError(f"--log-driver=journald: {reason}", hint)


def _file_option(log: LogConfig, key: str, value: str) -> None:
    if key == "max-size":
        log["max_size"] = 0 if value == "-1" else values.size(value, "--log-opt max-size")
    elif key == "max-file":
        log["max_file"] = values.integer(value, "--log-opt max-file", 1)
    elif key == "path":
        import os

        log["path"] = os.path.abspath(value)
    elif key in ("tag", "label"):
        raise UsageError(f"--log-opt: {key}= is for --log-driver=journald, not {log['driver']}")
    else:
        raise UsageError(f"--log-opt: {key!r} is not known", "use max-size=, max-file= or path=")


def _journald_option(log: LogConfig, key: str, value: str) -> None:
    if key == "tag":
        log["tag"] = value
    elif key == "label":
        name, equals, text = value.partition("=")
        if not equals or not _is_field(name):
            raise UsageError(
                f"--log-opt label={value}: no field of the journal can have this name",
                "write label=FIELD=VALUE with capital letters, digits and _, such as label=APP_VERSION=3",
            )
        if name in _OWN_FIELDS:
            raise UsageError(f"--log-opt label={name}=…: rl itself writes this field", "choose another name")
        log.setdefault("labels", {})[name] = text
    elif key in ("max-size", "max-file", "path"):
        raise UsageError(f"--log-opt: {key}= is for files", "the journal has its own: journald.conf(5), SystemMaxUse=")
    else:
        raise UsageError(f"--log-opt: {key!r} is not known", "use tag= or label=")


def _is_field(name: str) -> bool:
    """journald drops other names (systemd, journal_field_valid); those that begin with ``_`` are its own."""
    if not 0 < len(name) <= 64 or not "A" <= name[0] <= "Z":
        return False
    return not name.strip("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def render(engine: Engine, config: ContainerConfig) -> None:
    """Replace templates in tag and labels, such as ``{{.ImageName}}``, by what `rl inspect` will show."""
    log = config.get("log", {})
    texts = [log.get("tag", ""), *log.get("labels", {}).values()]
    if not any("{{" in text for text in texts):
        return
    if engine.render is None:
        raise UnsupportedError("--log-opt: templates need the command line", "give the text itself")
    from rl.engine.inspect import document

    state: Any = {"status": "created", "pid": 0, "started": "", "finished": "", "exit_code": 0}
    found = document(engine, config, state)
    log["tag"] = engine.render(log["tag"], found)
    log["labels"] = {name: engine.render(text, found) for name, text in log.get("labels", {}).items()}

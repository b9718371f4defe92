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


def log_config(path: str, options: dict[str, Any], conf: dict[str, Any] | None = None) -> LogConfig:
    """What *options* ask for, else *conf*, containers.conf; *path* is where a file is, unless they name one.

    Raises UsageError; UnsupportedError for journald where no journal runs.
    """
    conf = conf or {}
    given = [_split(item) for item in options.get("log_opt", [])]
    driver, source = options.get("log_driver") or "", "--log-driver"
    driver = next((value for key, value in reversed(given) if key == "driver"), driver)
    if not driver and conf.get("containers.log_driver"):
        driver, source = conf["containers.log_driver"], "containers.conf: log_driver"
    driver = driver or "k8s-file"
    if driver not in DRIVERS:
        raise UsageError(f"{source}: invalid log driver {driver!r}", f"use {', '.join(DRIVERS)}")
    if driver == "journald":
        _require_journal(source)
    file = driver in ("k8s-file", "json-file")
    log: LogConfig = {
        "driver": driver, "path": path if file else "", "max_size": _limit(conf) if file else 0, "max_file": 2,
        "tag": conf.get("containers.log_tag", "") if driver == "journald" else "",
    }  # fmt: skip
    for key, value in given:
        if key == "driver":
            continue
        if driver == "journald":
            _journald_option(log, key, value)
        elif file:
            _file_option(log, key, value)
        else:
            raise UsageError(f"--log-opt: {key}= has no meaning with --log-driver={driver}", "leave it out")
    if driver == "passthrough" and options.get("tty"):
        raise UsageError("--log-driver=passthrough cannot be used with --tty: the caller's own terminal is passed on")
    return log


def _split(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise UsageError(f'invalid log option "{item}"', "write --log-opt NAME=VALUE, such as max-size=10m")
    return key, value


def _limit(conf: dict[str, Any]) -> int:
    """containers.conf(5), log_size_max: negative for no limit, else at least conmon's buffer."""
    limit: int = conf.get("containers.log_size_max", _SIZE)
    if 0 <= limit < 8192:
        raise UsageError(f"containers.conf: log_size_max: {limit} is less than 8192 bytes", "-1 is no limit")
    return max(0, limit)


def _require_journal(source: str) -> None:
    from rl.monitor.logs_journald import problem

    if reason := problem():
        hint = "use --log-driver=k8s-file for a log file, or start it: sudo systemctl start systemd-journald.socket"
        raise UnsupportedError(f"{source}=journald: {reason}", hint)


def _file_option(log: LogConfig, key: str, value: str) -> None:
    if key == "max-size":
        log["max_size"] = 0 if value == "-1" else values.size(value, "--log-opt max-size")
    elif key == "max-file":
        log["max_file"] = values.integer(value, "--log-opt max-file", 1)
    elif key == "path":
        if value:
            log["path"] = _path(value)
    elif key in ("tag", "label"):
        raise UsageError(f"--log-opt: {key}= is for --log-driver=journald, not {log['driver']}")
    else:
        raise UsageError(f"--log-opt: {key!r} is not known", "use max-size=, max-file= or path=")


def _path(value: str) -> str:
    """Where the monitor can write: what it finds out later it has nobody to tell."""
    import os

    path = os.path.abspath(value)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise UsageError(f"--log-opt path={value}: {directory} is no directory", "create it first")
    if os.path.isdir(path):
        raise UsageError(f"--log-opt path={value}: it is a directory", "name a file in it")
    if not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise UsageError(f"--log-opt path={value}: permission denied", "choose a place that you may write to")
    return path


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

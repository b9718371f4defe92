"""state, list, ps, features, spec: what only prints. Formats as runc's."""

from __future__ import annotations

import os
import sys

from rl.errors import NotFoundError, RlError, StateError, UsageError
from rl.runtime import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.program.main import Program
    from rl.runtime.program.store import Record


def _print(document: Any, indent: int | None = 2) -> None:
    import json

    sys.stdout.write(json.dumps(document, indent=indent) + "\n")


def state(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """The state document of one container."""
    _print(program.store().load(operands[0]).document())
    return 0


def list_(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """All containers of this root; one whose record is damaged is told as a warning."""
    form = _format(options)
    rows = []
    store = program.store()
    for container_id in store.ids():
        try:
            record = store.load(container_id)
        except NotFoundError:
            continue  # removed meanwhile
        except RlError as error:
            program.warn(error.message)
            continue
        if record.state:
            rows.append(record.document())
    if options.get("quiet"):
        sys.stdout.write("".join(row["id"] + "\n" for row in rows))
    elif form == "json":
        _print(rows, None)
    else:
        columns = ("id", "pid", "status", "bundle", "created", "owner")
        _table([[name.upper() for name in columns], *([str(row[name]) for name in columns] for row in rows)])
    return 0


def _table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + "\n")  # noqa: B905


def _format(options: dict[str, Any]) -> str:
    form: str = options.get("format", "table")
    if form not in ("table", "json"):
        raise UsageError(f"--format {form!r} is not known", "use table or json")
    return form


def pids(record: Record) -> list[int]:
    """The processes of a container, in our pid namespace: those of its cgroup, or of its pid namespace."""
    if record.cgroup:
        return cgroup.Cgroup(record.cgroup).pids()
    init = record.pid
    try:
        theirs = os.stat(f"/proc/{init}/ns/pid")
        ours = os.stat("/proc/self/ns/pid")
    except OSError:
        return []
    if os.path.samestat(theirs, ours):
        return [init]  # without a pid namespace and a cgroup there is no telling which are the container's
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.path.samestat(os.stat(f"/proc/{name}/ns/pid"), theirs):
                found.append(int(name))
        except OSError:
            continue
    return sorted(found)


def ps(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """The host's ps, its lines of the container's processes."""
    form = _format(options)
    record = program.store().load(operands[0])
    if not record.pid:
        raise StateError(f"container {record.id} is {record.status}: container not running")
    found = pids(record)
    if form == "json":
        _print(found, None)
        return 0
    import subprocess

    command = ["ps", *(operands[1:] or ["-ef"])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RlError("run ps: no such program on this host", "install package procps, or use --format json") from None
    if done.returncode:
        raise RlError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    lines = done.stdout.splitlines()
    titles = lines[0].split()
    if "PID" not in titles:
        raise UsageError(f"{' '.join(command)} prints no PID column", "add it to the options of ps")
    column = titles.index("PID")
    wanted = set(map(str, found))
    sys.stdout.write(lines[0] + "\n")
    for line in lines[1:]:
        if line.split()[column : column + 1] and line.split()[column] in wanted:
            sys.stdout.write(line + "\n")
    return 0


def features(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """What this runtime can do (runtime-spec, features.md)."""
    from rl.runtime.program import features as source

    _print(source.document())
    return 0


def spec(program: Program, options: dict[str, Any], operands: list[str]) -> int:
    """A config.json to begin with, in the bundle."""
    from rl.runtime.program import template

    template.write(options.get("bundle", ""), bool(options.get("rootless")))
    return 0


COMMANDS: dict[str, Callable[[Program, dict[str, Any], list[str]], int]] = {
    "state": state, "list": list_, "ps": ps, "features": features, "spec": spec,
}

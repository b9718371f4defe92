"""`rl ps`: the table of containers."""

from __future__ import annotations

from rl.cli import output
from rl.engine.ps import ps
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = ""
ARGUMENTS = (0, 0)
INTERSPERSED = True
OPTIONS = (
    ("-a --all", "flag", "", "Show all containers, not only the running ones"),
    ("--external", "flag", "", "Show those of other tools in the same storage too: rl shares it with none"),
    ("-f --filter", "array", "KEY=VALUE", "Show only these: ancestor, annotation, before, command, exited, health, id, "
     "label, name, network, pod, restart-policy, should-start-on-boot, since, status, until, volume; label!= and "
     "annotation!= for those without"),
    ("--format", "value", "FORMAT", "json, or a Go template; `table …` adds headings"),
    ("-n --last", "value", "N", "Show the N containers created last, in any state", "int"),
    ("-l --latest", "flag", "", "Show the container created last, in any state"),
    ("--no-trunc --notruncate", "flag", "", "Show ids and commands in full"),
    ("--noheading", "flag", "", "Print no headings"),
    ("--ns --namespace", "flag", "", "Show the namespaces of each container"),
    ("-p --pod", "flag", "", "Show the pod of each container"),
    ("-q --quiet", "flag", "", "Print only ids"),
    ("-s --size", "flag", "", "Show what each container has written"),
    ("--sort", "value", "KEY", "Sort by command, created, id, image, names, runningfor, size or status",
     ("command", "created", "id", "image", "names", "runningfor", "size", "status")),
    ("--sync", "flag", "", "Look at containers that do not run too, so that every record is corrected"),
    ("-w --watch", "value", "SECONDS", "Show it again and again, every so many seconds", "uint"),
)
HELP = "List containers."

_COLUMNS = (
    ("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("CREATED", "CreatedHuman"),
    ("STATUS", "Status"), ("PORTS", "Ports"), ("NAMES", "Names"),
)
_NAMESPACE_COLUMNS = (
    ("CONTAINER ID", "ID"), ("NAMES", "Names"), ("PID", "Pid"), ("CGROUPNS", "CGROUPNS"), ("IPC", "IPC"),
    ("MNT", "MNT"), ("NET", "NET"), ("PIDNS", "PIDNS"), ("USERNS", "USERNS"), ("UTS", "UTS"),
)
_POD_COLUMNS = (("POD ID", "ShortPod"), ("PODNAME", "PodName"))
_NAMESPACES = (
    ("CGROUPNS", "Cgroup"), ("IPC", "Ipc"), ("MNT", "Mnt"), ("NET", "Net"), ("PIDNS", "Pidns"), ("USERNS", "User"),
    ("UTS", "Uts"),
)
_NAMESPACE_FIELDS = ("Namespaces", ".CGROUPNS", ".IPC", ".MNT", ".NET}", ".NET ", ".PIDNS", ".USERNS", ".UTS")


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    quiet, size, namespaces = options.get("quiet"), options.get("size"), options.get("ns")
    if quiet and (size or namespaces):
        raise UsageError("quiet conflicts with size and namespace", "leave one of them out")
    if options.get("latest") and options.get("last", -1) >= 0:
        raise UsageError("last and latest are mutually exclusive", "leave one of them out")
    if size and namespaces:
        raise UsageError("size and namespace options conflict", "leave one of them out")
    if not options.get("watch"):
        return _show(engine, options)
    import sys
    import time

    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
    while True:
        output.write(clear)
        _show(engine, options)
        sys.stdout.flush()
        time.sleep(options["watch"])


def _show(engine: Engine, options: dict[str, Any]) -> int:
    size, namespaces, text = options.get("size"), options.get("ns"), options.get("format", "")
    found = ps(
        engine, all=bool(options.get("all")), filters=options.get("filter", []), last=options.get("last", -1),
        latest=bool(options.get("latest")), size=bool(size) or ".Size" in text, sort=options.get("sort", "created"),
        namespaces=bool(namespaces) or any(field in text for field in _NAMESPACE_FIELDS) or text == "json",
        sync=bool(options.get("sync")),
    )
    full = bool(options.get("no_trunc"))
    if options.get("quiet") and not text:
        output.write("".join([(row["Id"] if full else row["Id"][:12]) + "\n" for row in found]))
        return 0
    make = _display if namespaces or text not in ("", "table") else _cells
    rows = [make(row, full) for row in found] if text != "json" else []
    wanted: output.Columns = _COLUMNS
    if namespaces:
        wanted = _NAMESPACE_COLUMNS
    else:
        if options.get("pod"):
            wanted = (*wanted, *_POD_COLUMNS)
        if size:
            wanted = (*wanted, ("SIZE", "Size"))
    output.print_rows(text, rows, wanted, not options.get("noheading"), documents=lambda: found)
    return 0


def _cells(row: dict[str, Any], full: bool) -> dict[str, Any]:
    """What the default table shows: text where the JSON has lists."""
    command = " ".join(row["Command"] or [])
    if not full and len(command) > 20:
        command = command[:17] + "..."
    return {
        "ID": row["Id"] if full else row["Id"][:12], "Image": row["Image"], "Command": command,
        "CreatedHuman": row["CreatedAt"], "Status": row["Status"], "Ports": _ports(row["Ports"]),
        "Names": ",".join(row["Names"]), "PodName": row["PodName"], "ShortPod": row["Pod"] if full else row["Pod"][:12],
        "Size": _size(row["Size"]),
    }  # fmt: skip


def _display(row: dict[str, Any], full: bool) -> dict[str, Any]:
    """The fields of Podman's templates."""
    from rl.engine.times import go_time

    namespaces = row["Namespaces"]
    return {
        **row, **_cells(row, full), **{field: namespaces.get(key, "") for field, key in _NAMESPACES},
        "RunningFor": row["CreatedAt"], "Networks": ",".join(row["Networks"]), "Mounts": ",".join(row["Mounts"]),
        "Labels": row["Labels"] or {}, "Label": lambda name="": (row["Labels"] or {}).get(name, ""),
        "Created": lambda: go_time(_rfc(row["Created"])), "CreatedAt": lambda: go_time(_rfc(row["Created"])),
    }  # fmt: skip


def _rfc(seconds: int) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _ports(mappings: Any) -> str:
    if not mappings:
        return ""
    from rl.network.ports import format_ports

    return format_ports(mappings)


def _size(size: dict[str, int] | None) -> str:
    if size is None:
        return ""
    from rl.engine.times import human_size

    return f"{human_size(size['rwSize'])} (virtual {human_size(size['rootFsSize'])})"

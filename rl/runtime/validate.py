"""Is this config.json one that can be honoured? Checked before anything is made; the error names the JSON path.

Called by `rl-runtime` for every bundle (:func:`check`), for ``exec --process`` (:func:`check_process`) and for
``update --resources`` (:func:`check_resources`). :mod:`rl.runtime.schema` has types and ranges, here are the function
that walks it, the rules for strings, and what fields must agree on: :data:`CROSS`. What is odd but no error is in
:func:`warnings`. Source: OCI runtime specification; where it leaves room, runc.
"""

from __future__ import annotations

from rl.errors import UsageError
from rl.runtime import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CONFIG_HINT = "correct it in config.json; `rl-runtime spec` writes one to start from"
_PROCESS_HINT = "correct it in the document of the process"
_RESOURCES_HINT = "correct it in the document of the resources"
_CPUS = 8192  # the largest CONFIG_NR_CPUS


class _Wrong(Exception):
    """What is wrong, and where; every level on the way out puts its step before ``path``."""

    def __init__(self, what: str, path: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.hint = hint


def check(spec: Any) -> None:
    """Raise UsageError unless *spec* (config.json, parsed) can be honoured."""
    _run(spec, schema.CONFIG, "", _CONFIG_HINT, CROSS)


def check_process(process: Any, where: str = "process") -> None:
    """Raise UsageError unless *process* is a ``process`` object (`exec --process FILE`); *where* begins its path."""
    _run(process, schema.PROCESS, where, _PROCESS_HINT, PROCESS_CROSS)


def check_resources(resources: Any, where: str = "resources") -> None:
    """Raise UsageError unless *resources* is a ``linux.resources`` object (`update --resources FILE`)."""
    _run(resources, schema.RESOURCES, where, _RESOURCES_HINT, RESOURCES_CROSS)


def warnings(spec: dict[str, Any]) -> list[str]:
    """What is odd in a *spec* that :func:`check` has passed, but no error."""
    found = []
    for index, entry in enumerate(spec.get("mounts") or ()):
        if not entry["destination"].startswith("/"):
            found.append(
                f"mounts[{index}].destination: {_show(entry['destination'])} is relative, which is deprecated;"
                " taken as below /"
            )
    return found


def _run(value: Any, node: schema.Node, where: str, hint: str, crosses: tuple[Callable[[Any], None], ...]) -> None:
    try:
        _walk(value, node)
        for cross in crosses:
            cross(value)
    except _Wrong as wrong:
        path = where + wrong.path if where else wrong.path.removeprefix(".")
        raise UsageError(f"{path or 'config.json'}: {wrong.what}", wrong.hint or hint) from None


def _walk(value: Any, node: schema.Node) -> None:
    """Hold *value* against *node*; raises _Wrong. Goes no deeper than the schema, whatever *value* holds."""
    kind = node[0]
    if kind == "text":
        _text(value, node)
    elif kind == "object":
        _object(value, node[1], node[2])
    elif kind == "list":
        if type(value) is not list:
            raise _Wrong(f"must be an array, not {_show(value)}")
        item, index = node[1], 0
        try:
            for index, entry in enumerate(value):  # noqa: B007 # read in the handler
                _walk(entry, item)
        except _Wrong as wrong:
            wrong.path = f"[{index}]{wrong.path}"
            raise
    elif kind == "int":
        if type(value) is not int or not node[1] <= value <= node[2]:
            raise _Wrong(f"must be a number from {node[1]} to {node[2]}, not {_show(value)}")
    elif kind == "bool":
        if value is not True and value is not False:
            raise _Wrong(f"must be true or false, not {_show(value)}")
    elif kind == "enum":
        if type(value) is not str or value not in node[1]:
            names = ", ".join(name for name in node[1] if name)
            raise _Wrong(f"must be one of {names}, not {_show(value)}")
    elif kind == "map":
        _map(value, node[1], node[2])
    else:
        raise _Wrong(node[1], hint=node[2])


def _object(value: Any, fields: dict[str, schema.Node], required: tuple[str, ...]) -> None:
    if type(value) is not dict:
        raise _Wrong(f"must be an object, not {_show(value)}")
    for name in required:
        if value.get(name) is None:
            raise _Wrong("missing", f".{name}")
    name = ""
    try:
        for name, entry in value.items():
            if entry is not None and name in fields:
                _walk(entry, fields[name])
    except _Wrong as wrong:
        wrong.path = f".{name}{wrong.path}"
        raise


def _map(value: Any, node: schema.Node, rule: str) -> None:
    if type(value) is not dict:
        raise _Wrong(f"must be an object, not {_show(value)}")
    for key, entry in value.items():
        try:
            try:
                _text(key, ("text", rule))
            except _Wrong as wrong:
                wrong.what = f"as a name it {wrong.what}"
                raise
            _walk(entry, node)
        except _Wrong as wrong:
            wrong.path = f"[{_show(key)}]{wrong.path}"
            raise


def _text(value: Any, node: schema.Node) -> None:
    """A string that can go into a system call, and follows the node's rule."""
    if type(value) is not str:
        raise _Wrong(f"must be a string, not {_show(value)}")
    if "\0" in value:
        raise _Wrong(f"must not contain a NUL character: {_show(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Wrong(f"has half of a surrogate pair, which is no character: {_show(value)}") from None
    if len(node) > 1:
        test, must = RULES[node[1]]
        if not test(value):
            raise _Wrong(f"{must}, not {_show(value)}")


def _show(value: Any) -> str:
    """*value* for a message: short, and printable whatever it is."""
    if type(value) is str:
        short = value if len(value) <= 60 else value[:57] + "..."
        return f'"{short}"' if short.isprintable() else ascii(short)
    if type(value) is dict:
        return "an object"
    if type(value) is list:
        return "an array"
    if type(value) is int and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


# --- rules for strings ---------------------------------------------------------------------------------------------


def _is_version(text: str) -> bool:
    """SemVer 2.0.0 of major version 1 (config.md, "Specification version")."""
    numbers = text.partition("+")[0].partition("-")[0].split(".")
    return len(numbers) == 3 and numbers[0] == "1" and all(
        number.isascii() and number.isdigit() and (number == "0" or number[0] != "0") for number in numbers
    )


def _is_cpu_list(text: str) -> bool:
    """A list like ``0-3,7``; empty is none."""
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        ends = (first, last) if dash else (first,)
        if not all(end.isascii() and end.isdigit() and len(end) < 6 and int(end) < _CPUS for end in ends):
            return False
        if int(ends[0]) > int(ends[-1]):
            return False
    return True


def _is_interface(text: str) -> bool:
    """What the kernel takes as the name of a network device (dev_valid_name)."""
    return 0 < len(text.encode()) < 16 and text not in (".", "..") and not any(
        character in "/:" or character.isspace() for character in text
    )


def _is_page_size(text: str) -> bool:
    number = text[:-2]
    return text[-2:] in ("KB", "MB", "GB") and number.isascii() and number.isdigit() and number[0] != "0"


#: name: (test, what a value that fails it should have been)
RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "absolute": (lambda text: text[:1] == "/", "must be an absolute path"),
    "absolute or empty": (lambda text: text[:1] in ("/", ""), "must be an absolute path"),
    "access": (lambda text: not text.strip("rwm"), "must be of the letters r, w and m"),
    "cgroup file": (
        lambda text: "." in text and "/" not in text and text[0] != ".", "must be the name of a cgroup file",
    ),
    "clock": (lambda text: text in ("monotonic", "boottime"), "must be monotonic or boottime"),
    "cpus": (_is_cpu_list, f"must be a list such as 0-3,7 with numbers below {_CPUS}"),
    "filled": (lambda text: text != "", "must not be empty"),
    "host name": (lambda text: len(text.encode()) <= 64, "must be of 64 bytes at most"),
    "interface": (_is_interface, "must be the name of a network device, of 15 bytes at most"),
    "interface or empty": (
        lambda text: not text or _is_interface(text), "must be the name of a network device, of 15 bytes at most",
    ),
    "no parent": (lambda text: ".." not in text.split("/"), 'must not have ".." in it'),
    "page size": (_is_page_size, "must be a size such as 64KB, 2MB or 1GB"),
    "variable": (lambda text: text.find("=") > 0, "must be NAME=VALUE"),
    "version": (_is_version, "must be a version 1.x.y of the OCI runtime specification"),
    "word": (lambda text: text != "" and not any(map(str.isspace, text)), "must be one word"),
}


# --- what fields must agree on -------------------------------------------------------------------------------------


def _namespaces(spec: dict[str, Any]) -> dict[str, str]:
    """Type of namespace → path to join, "" for a new one."""
    entries = (spec.get("linux") or {}).get("namespaces") or ()
    return {entry["type"]: entry.get("path") or "" for entry in entries}


def _platform(spec: dict[str, Any]) -> None:
    if not spec.get("linux"):
        for name in ("windows", "solaris", "freebsd", "zos"):
            if spec.get(name):
                raise _Wrong("this container is not for Linux", f".{name}", "run it on the system it was made for")


def _mount_namespace(spec: dict[str, Any]) -> None:
    seen: dict[str, int] = {}
    for index, entry in enumerate((spec.get("linux") or {}).get("namespaces") or ()):
        kind = entry["type"]
        if kind in seen:
            raise _Wrong(f"namespace {kind} is listed twice", f".linux.namespaces[{index}].type")
        seen[kind] = index
        if kind == "mount" and entry.get("path"):
            raise _Wrong(
                "joining a mount namespace is not supported", f".linux.namespaces[{index}].path", "leave out the path"
            )
    if "mount" not in seen:
        raise _Wrong(
            "a container needs a mount namespace of its own", ".linux.namespaces", 'add {"type": "mount"} to it'
        )


def _user_namespace(spec: dict[str, Any]) -> None:
    linux, found = spec["linux"], _namespaces(spec)
    for kind in ("uid", "gid"):
        maps, path = linux.get(f"{kind}Mappings") or (), f".linux.{kind}Mappings"
        if maps and "user" not in found:
            raise _Wrong(
                "needs a user namespace", path, 'add {"type": "user"} to linux.namespaces, or leave out the mappings'
            )
        if not maps and found.get("user") == "":
            raise _Wrong("missing, and there is a new user namespace", path, "map at least id 0")
        _check_maps(maps, path)


def _check_maps(maps: Any, path: str) -> None:
    """Each range within 32 bits, none over another, neither inside nor outside (user_namespaces(7))."""
    if len(maps) > 340:
        raise _Wrong(f"has {len(maps)} ranges, the kernel takes 340", path)
    for index, entry in enumerate(maps):
        for key in ("containerID", "hostID"):
            if entry[key] + entry["size"] > 2**32 - 1:
                raise _Wrong(f"{key} and size reach beyond 4294967294", f"{path}[{index}].size")
    for key in ("containerID", "hostID"):
        end, last = -1, 0
        for index in sorted(range(len(maps)), key=lambda number: maps[number][key]):
            if maps[index][key] < end:
                raise _Wrong(f"overlaps with {path[1:]}[{last}]", f"{path}[{index}].{key}")
            end, last = maps[index][key] + maps[index]["size"], index


def _mounts(spec: dict[str, Any]) -> None:
    for index, entry in enumerate(spec.get("mounts") or ()):
        path = f".mounts[{index}]"
        kind, options = entry.get("type"), entry.get("options") or ()
        bind = kind in ("bind", "rbind") or "bind" in options or "rbind" in options
        if "remount" in options:
            continue  # of what is there already
        if not bind and kind in (None, "", "none"):
            raise _Wrong("missing, and it is not a bind mount", f"{path}.type", 'add "rbind" to options for one')
        if bind and not entry.get("source"):
            raise _Wrong("missing, and it is a bind mount", f"{path}.source", "name the file or directory to mount")
        uids, gids = entry.get("uidMappings"), entry.get("gidMappings")
        if bool(uids) != bool(gids):
            missing = "gid" if uids else "uid"
            raise _Wrong("missing: a mount has mappings of both kinds or none", f"{path}.{missing}Mappings")
        _check_maps(uids or (), f"{path}.uidMappings")
        _check_maps(gids or (), f"{path}.gidMappings")


def _names(spec: dict[str, Any]) -> None:
    for key in ("hostname", "domainname"):
        if spec.get(key) and "uts" not in _namespaces(spec):
            raise _Wrong("needs a UTS namespace", f".{key}", f'add {{"type": "uts"}} to linux.namespaces, or no {key}')


def _time_offsets(spec: dict[str, Any]) -> None:
    if spec["linux"].get("timeOffsets") and _namespaces(spec).get("time") != "":
        raise _Wrong(
            "needs a new time namespace", ".linux.timeOffsets", 'add {"type": "time"} to linux.namespaces, without path'
        )


def _devices(spec: dict[str, Any]) -> None:
    for index, entry in enumerate(spec["linux"].get("devices") or ()):
        for key in ("major", "minor") if entry["type"] != "p" else ():
            if entry.get(key) is None:
                raise _Wrong(f"missing, and the device is of type {entry['type']}", f".linux.devices[{index}].{key}")


def _net_devices(spec: dict[str, Any]) -> None:
    devices = spec["linux"].get("netDevices") or {}
    if devices and "network" not in _namespaces(spec):
        raise _Wrong("needs a network namespace", ".linux.netDevices", 'add {"type": "network"} to linux.namespaces')
    names: dict[str, str] = {}
    for device, entry in devices.items():
        name = entry.get("name") or device
        if name in names and "%" not in name:  # eth%d: the kernel chooses the number
            raise _Wrong(f"{_show(names[name])} gets this name too", f".linux.netDevices[{_show(device)}].name")
        names[name] = device


def _sysctls(spec: dict[str, Any]) -> None:
    sysctls = spec["linux"].get("sysctl")
    if not sysctls:
        return
    from rl.runtime.sysctl import namespace_of

    found = _namespaces(spec)
    for key in sysctls:
        kind = namespace_of(key)
        if not kind:
            raise _Wrong(
                "does not belong to a namespace, it would change the host", f".linux.sysctl[{_show(key)}]",
                "net.*, fs.mqueue.*, kernel.hostname, kernel.domainname and System V IPC (kernel.shmmax, …) can be set",
            )
        if kind not in found:
            raise _Wrong(
                f"needs a namespace of type {kind}", f".linux.sysctl[{_show(key)}]",
                f'add {{"type": "{kind}"}} to linux.namespaces',
            )
        field = key.replace("/", ".").rpartition(".")[2]
        if kind == "uts" and spec.get(field):
            raise _Wrong(f"{field} sets this already", f".linux.sysctl[{_show(key)}]", "leave out one of the two")


def _personality(spec: dict[str, Any]) -> None:
    if (spec["linux"].get("personality") or {}).get("flags"):
        raise _Wrong("there are no flags of personalities", ".linux.personality.flags", "leave it out")


def _hooks(spec: dict[str, Any]) -> None:
    for kind, entries in (spec.get("hooks") or {}).items():
        for index, entry in enumerate(entries if kind in schema.HOOKS and entries else ()):
            arguments = entry.get("args")
            if arguments and not arguments[0]:
                raise _Wrong("must not be empty: it is the name of the program", f".hooks.{kind}[{index}].args[0]")


def _arguments(process: dict[str, Any]) -> None:
    if not process["args"]:
        raise _Wrong("must not be empty: it is the command", ".args")


def _console(process: dict[str, Any]) -> None:
    # Without a terminal it "MUST be ignored".
    if process.get("terminal"):
        for key, value in (process.get("consoleSize") or {}).items():
            if key in ("height", "width") and value > 2**16 - 1:
                raise _Wrong(f"must be a number from 0 to 65535, not {value}", f".consoleSize.{key}")


def _rlimits(process: dict[str, Any]) -> None:
    seen = set()
    for index, limit in enumerate(process.get("rlimits") or ()):
        path = f".rlimits[{index}]"
        if limit["type"] in seen:
            raise _Wrong(f"{limit['type']} is listed twice", f"{path}.type")
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            raise _Wrong(f"must not be above the hard limit of {limit['hard']}: {limit['soft']}", f"{path}.soft")


def _scheduler(process: dict[str, Any]) -> None:
    scheduler = process.get("scheduler") or {}
    policy = scheduler.get("policy")
    if scheduler.get("priority") and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise _Wrong(f"has no meaning with {policy}", ".scheduler.priority", "it is for SCHED_FIFO and SCHED_RR")
    if policy in ("SCHED_FIFO", "SCHED_RR") and not 1 <= (scheduler.get("priority") or 0) <= 99:
        raise _Wrong(f"must be a number from 1 to 99 with {policy}", ".scheduler.priority")
    for key in ("runtime", "deadline", "period"):
        if scheduler.get(key) and policy != "SCHED_DEADLINE":
            raise _Wrong(f"has no meaning with {policy}", f".scheduler.{key}", "it is for SCHED_DEADLINE")


def _memory(resources: dict[str, Any]) -> None:
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if 0 < swap < limit:
        raise _Wrong(
            f"must not be below the memory limit of {limit}: {swap}", ".memory.swap",
            "it counts memory and swap together",
        )


def _weights(resources: dict[str, Any]) -> None:
    block = resources.get("blockIO") or {}
    found = [(".blockIO", block)]
    found += [(f".blockIO.weightDevice[{n}]", entry) for n, entry in enumerate(block.get("weightDevice") or ())]
    for path, entry in found:
        for key in ("weight", "leafWeight"):
            if entry.get(key) and not 10 <= entry[key] <= 1000:
                raise _Wrong(f"must be a number from 10 to 1000, or 0: {entry[key]}", f"{path}.{key}")


def _rdma(resources: dict[str, Any]) -> None:
    for device, entry in (resources.get("rdma") or {}).items():
        if not entry or (entry.get("hcaHandles") is None and entry.get("hcaObjects") is None):
            raise _Wrong("needs hcaHandles or hcaObjects", f".rdma[{_show(device)}]")


def _within(step: str, crosses: tuple[Callable[[Any], None], ...]) -> Callable[[dict[str, Any]], None]:
    """The checks *crosses* of the object at *step* (dotted), if it is there, with *step* before their paths."""
    def run(spec: dict[str, Any]) -> None:
        inner: Any = spec
        for name in step.split("."):
            inner = (inner or {}).get(name)
        try:
            for cross in crosses if inner is not None else ():
                cross(inner)
        except _Wrong as wrong:
            wrong.path = f".{step}{wrong.path}"
            raise

    return run


PROCESS_CROSS: tuple[Callable[[Any], None], ...] = (_arguments, _console, _rlimits, _scheduler)
RESOURCES_CROSS: tuple[Callable[[Any], None], ...] = (_memory, _weights, _rdma)
#: In this order: after the first two there is a "linux" section.
CROSS: tuple[Callable[[Any], None], ...] = (
    _platform, _mount_namespace, _user_namespace, _mounts, _names, _time_offsets, _devices, _net_devices, _sysctls,
    _personality, _hooks, _within("process", PROCESS_CROSS), _within("linux.resources", RESOURCES_CROSS),
)

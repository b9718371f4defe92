"""rl top: the processes of a container, read from /proc of the host; nothing runs in the container.

Called by the command line. Source: podman-top(1) for the descriptors, proc(5) for the fields.
"""

from __future__ import annotations

import os
import time

from rl.engine import containers
from rl.errors import RlError, StateError, UsageError
from rl.kernel import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.engine.context import Engine

DEFAULT = ("user", "pid", "ppid", "pcpu", "etime", "tty", "time", "args")


class Container:
    """What all rows share: the container's process 1, its id maps, its names for ids."""

    def __init__(self, pid: int, run: str) -> None:
        self.pid = pid
        self._run = run
        self.level = len(_status(pid).get("NSpid", "0").split()) - 1
        self.maps = {kind: _id_map(pid, kind) for kind in ("uid", "gid")}
        self.names = {"uid": self._names("/etc/passwd"), "gid": self._names("/etc/group")}
        self.ticks = os.sysconf("SC_CLK_TCK")
        self.uptime = float(_read("/proc/uptime").split()[0])

    def _names(self, path: str) -> dict[int, str]:
        """id → name of the container's own file, opened so that no link leads out of the container."""
        names: dict[int, str] = {}
        try:
            try:
                text = _read_in(self.pid, path)
            except PermissionError:  # fuse-overlayfs serves only those of its user namespace
                from rl.runtime import userns

                text = userns.call(self._run, _read_in, self.pid, path)
        except (OSError, RlError):
            return names
        for line in text.splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit():
                names.setdefault(int(fields[2]), fields[0])
        return names

    def inside(self, kind: str, number: int) -> int:
        """A host id as the container sees it; 65534 for one it cannot see."""
        return proc.inside(self.maps[kind], number, 65534)

    def name(self, kind: str, number: int) -> str:
        inside = self.inside(kind, number)
        return self.names[kind].get(inside, str(inside))


def _read_in(pid: int, path: str) -> str:
    from rl.runtime import rootpath

    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        return rootpath.read_limited(root, path, 1 << 20).decode("utf-8", "replace")
    finally:
        os.close(root)


class Process:
    """One process: its stat and status fields, read once."""

    def __init__(self, container: Container, pid: int) -> None:
        self.container = container
        self.pid = pid
        text = _read(f"/proc/{pid}/stat")
        end = text.rindex(")")
        self.comm = text[text.index("(") + 1 : end]
        self.stat = text[end + 2 :].split()  # from field 3, the state, on
        self.status = _status(pid)

    def ids(self, kind: str) -> list[int]:
        """real, effective, saved, file system: the host's ids"""
        return [int(number) for number in self.status.get("Uid" if kind == "uid" else "Gid", "0 0 0 0").split()]

    def inside_pid(self, key: str) -> str:
        numbers = self.status.get(key, str(self.pid)).split()
        return numbers[min(self.container.level, len(numbers) - 1)]

    def cpu_ticks(self) -> int:
        return int(self.stat[11]) + int(self.stat[12])

    def elapsed(self) -> float:
        return max(0.0, self.container.uptime - int(self.stat[19]) / self.container.ticks)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _status(pid: int) -> dict[str, str]:
    fields = {}
    for line in _read(f"/proc/{pid}/status").splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    return fields


def _id_map(pid: int, kind: str) -> list[tuple[int, int, int]]:
    lines = _read(f"/proc/{pid}/{kind}_map").splitlines()
    return [(int(a), int(b), int(n)) for a, b, n in (line.split() for line in lines)]


# --- descriptors


def _args(p: Process) -> str:
    """The command line; a kernel thread's or an empty one as [comm]. Control characters would reach the terminal."""
    words = _read(f"/proc/{p.pid}/cmdline").rstrip("\0").split("\0")
    text = " ".join(words).strip() or f"[{p.comm}]"
    return "".join([c if c.isprintable() else "?" for c in text])


def _seconds(count: float) -> str:
    """psgo's durations: ``1h2m3.5s``, to the thousandth, without trailing zeros."""
    hours, rest = divmod(count, 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours:.0f}h{minutes:.0f}m{text}"
    return f"{minutes:.0f}m{text}" if minutes else text


def _tty(p: Process) -> str:
    device = int(p.stat[4])
    if not device:
        return "?"
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:
        return f"pts/{minor + (major - 136) * 256}"
    return f"tty{minor}" if major == 4 else f"{major}:{minor}"


def _percent(p: Process) -> str:
    elapsed = p.elapsed()
    return f"{100 * p.cpu_ticks() / p.container.ticks / elapsed if elapsed else 0:.3f}"


def _start(p: Process) -> str:
    """Wall-clock time of the start: ``2026-01-31 12:00:00 +0100 CET``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(time.time() - p.elapsed()))


def _capabilities(field: str) -> Callable[[Process], str]:
    def show(p: Process) -> str:
        from rl.engine.spec.security import ALL_CAPABILITIES

        mask = int(p.status.get(field, "0"), 16)
        names = [name[4:] for bit, name in enumerate(ALL_CAPABILITIES) if mask >> bit & 1]
        if not mask:
            return "none"
        return "full" if len(names) == int(_read("/proc/sys/kernel/cap_last_cap")) + 1 else ",".join(sorted(names))

    return show


def _groups(names: bool) -> Callable[[Process], str]:
    def show(p: Process) -> str:
        numbers = [int(number) for number in p.status.get("Groups", "").split()] or p.ids("gid")[:1]
        shown = [p.container.name("gid", number) if names else _host_name("gid", number) for number in numbers]
        return ",".join(shown)

    return show


def _host_name(kind: str, number: int) -> str:
    try:
        if kind == "uid":
            import pwd

            return pwd.getpwuid(number).pw_name
        import grp

        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _label(p: Process) -> str:
    try:
        return _read(f"/proc/{p.pid}/attr/current").rstrip("\0\n") or "?"
    except OSError:
        return "?"


_SECCOMP = {"0": "disabled", "1": "strict", "2": "filter"}

#: name → (heading, value, further names)
DESCRIPTORS: dict[str, tuple[str, Callable[[Process], str]]] = {
    "args": ("COMMAND", _args),
    "capamb": ("AMBIENT CAPS", _capabilities("CapAmb")),
    "capbnd": ("BOUNDING CAPS", _capabilities("CapBnd")),
    "capeff": ("EFFECTIVE CAPS", _capabilities("CapEff")),
    "capinh": ("INHERITED CAPS", _capabilities("CapInh")),
    "capprm": ("PERMITTED CAPS", _capabilities("CapPrm")),
    "comm": ("COMMAND", lambda p: "".join([c if c.isprintable() else "?" for c in p.comm])),
    "etime": ("ELAPSED", lambda p: _seconds(p.elapsed())),
    "group": ("GROUP", lambda p: p.container.name("gid", p.ids("gid")[1])),
    "groups": ("GROUPS", _groups(names=True)),
    "hgroup": ("HGROUP", lambda p: _host_name("gid", p.ids("gid")[1])),
    "hgroups": ("HGROUPS", _groups(names=False)),
    "hpid": ("HPID", lambda p: str(p.pid)),
    "huser": ("HUSER", lambda p: _host_name("uid", p.ids("uid")[1])),
    "label": ("LABEL", _label),
    "nice": ("NI", lambda p: p.stat[16]),
    "pcpu": ("%CPU", _percent),
    "pgid": ("PGID", lambda p: p.inside_pid("NSpgid")),
    "pid": ("PID", lambda p: p.inside_pid("NSpid")),
    "ppid": ("PPID", lambda p: _parent(p)),
    "rgroup": ("RGROUP", lambda p: p.container.name("gid", p.ids("gid")[0])),
    "rss": ("RSS", lambda p: str(int(p.stat[21]) * os.sysconf("SC_PAGE_SIZE") // 1024)),
    "ruser": ("RUSER", lambda p: p.container.name("uid", p.ids("uid")[0])),
    "seccomp": ("SECCOMP", lambda p: _SECCOMP.get(p.status.get("Seccomp", ""), "unknown")),
    "state": ("STATE", lambda p: p.stat[0]),
    "stime": ("STIME", _start),
    "time": ("TIME", lambda p: _seconds(p.cpu_ticks() / p.container.ticks)),
    "tty": ("TTY", _tty),
    "user": ("USER", lambda p: p.container.name("uid", p.ids("uid")[1])),
    "vsz": ("VSZ", lambda p: str(int(p.stat[20]) // 1024)),
}

#: The other spellings of ps(1): AIX codes and long names.
_ALIASES = {
    "%a": "args", "%c": "comm", "%g": "rgroup", "%G": "group", "%n": "nice", "%p": "pid", "%P": "ppid", "%r": "pgid",
    "%t": "etime", "%u": "ruser", "%U": "user", "%x": "time", "%y": "tty", "%z": "vsz", "%C": "pcpu", "%cpu": "pcpu",
    "command": "args", "cmd": "args", "elapsed": "etime", "egroup": "group", "euser": "user", "ni": "nice",
    "stat": "state", "s": "state", "cputime": "time", "vsize": "vsz", "rssize": "rss", "pgrp": "pgid",
    "tt": "tty", "tname": "tty",
}  # fmt: skip


def _parent(p: Process) -> str:
    """The parent's pid in the container; 0 for a parent outside it."""
    parent = int(p.stat[1])
    try:
        numbers = _status(parent).get("NSpid", "").split()
    except OSError:
        return "0"
    level = p.container.level
    return numbers[level] if len(numbers) > level else "0"


def parse_descriptors(words: list[str]) -> list[str] | None:
    """Descriptor names of *words* (each may hold several, with commas); None where one is not of podman-top(1)."""
    chosen = [_ALIASES.get(name, name) for word in words for name in word.split(",") if name]
    return (chosen or list(DEFAULT)) if all(name in DESCRIPTORS for name in chosen) else None


def top(engine: Engine, name: str, descriptors: list[str] | None = None) -> tuple[list[str], list[list[str]]] | str:
    """(headings, one row per process) of the running container *name*; *descriptors* as in podman-top(1).

    Words that are none are for ps(1), which then runs in the container: the result is what it printed.
    Raises StateError unless the container runs, RlError where ps fails.
    """
    words = descriptors or []
    chosen = parse_descriptors(words)
    container_id = containers.find(engine.paths, name)
    state = containers.read_state(engine.paths, container_id)
    if state.get("status") not in containers.LIVE or not state.get("pid"):
        raise StateError("top can only be used on running containers", f"start it: rl start {name}")
    if chosen is None:
        return _ps(engine, container_id, words)
    try:
        container = Container(state["pid"], engine.paths.run)
    except OSError:
        raise StateError(f"container {name} has just ended", f"start it: rl start {name}") from None
    rows = []
    for pid in processes(state["pid"]):
        try:
            process = Process(container, pid)
            rows.append([DESCRIPTORS[key][1](process) for key in chosen])
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
    return [DESCRIPTORS[key][0] for key in chosen], rows


def _ps(engine: Engine, container_id: str, words: list[str]) -> str:
    """What ps with *words* prints in the container, without itself, as Podman does.

    A child of ours runs it, for `rl exec` gives a command the caller's own streams.
    """
    import shlex

    try:
        arguments = [part for word in words for part in shlex.split(word)]
    except ValueError as error:
        raise UsageError(f"top: {' '.join(words)!r}: {error}", _PS_HINT) from None
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        code = 125
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            from rl.engine.exec import exec_

            code = int(exec_(engine, container_id, ["ps", *arguments]))
        except RlError as error:
            os.write(writer, error.message.encode(errors="surrogateescape"))
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="surrogateescape") as file:
        output = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        said = output.strip().partition("\n")[0]
        raise RlError(f"executing ps(1) in the container: {said or 'it failed'}", _PS_HINT)
    own = " ".join(["ps", *arguments])
    return "".join([line for line in output.splitlines(keepends=True) if own not in line])


_PS_HINT = f"what is not one of these is for the container's own ps: {', '.join(DESCRIPTORS)}"


def processes(init: int) -> list[int]:
    """Host pids of the container whose first process is *init*, in ascending order.

    Those in its pid namespace; with ``--pid=host`` that is everybody's, so its descendants.
    """
    try:
        own = os.stat(f"/proc/{init}/ns/pid").st_ino
        shared = own == os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        shared, own = True, 0
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    if not shared:
        return [pid for pid in pids if _inode(f"/proc/{pid}/ns/pid") == own]
    parents: dict[int, int] = {}
    for pid in pids:
        try:
            text = _read(f"/proc/{pid}/stat")
        except OSError:
            continue
        parents[pid] = int(text[text.rindex(")") + 2 :].split()[1])
    return [pid for pid in pids if _descends(pid, init, parents)]


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid and pid != ancestor:
        pid = parents.get(pid, 0)
    return pid == ancestor

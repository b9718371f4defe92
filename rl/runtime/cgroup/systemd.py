"""A transient scope per container, made by the systemd that manages this user (or, as real root, the host).

Called through :mod:`rl.runtime.cgroup` by the engine's launch and by `rl-runtime` with ``--systemd-cgroup``. The scope
is delegated: what is in its cgroup is ours, by plain files; systemd is asked only to make it, to move processes into
it that we may not move ourselves (out of a login session), and to stop it when it lingers. It goes by itself when
its last process has ended.

Below the scope the container has the leaf :data:`PAYLOAD`, and the engine's monitor with its helpers the leaf
:data:`SUPERVISOR`: a cgroup that hands out controllers must not hold processes, and systemd resets what is
set on the scope itself with every daemon-reload.

`systemctl stop` of the scope sends :data:`STOP_SIGNAL` to every process in it. All but the monitor ignore it by
default, and the monitor then stops the container in the container's own manner; SIGTERM to all would forestall that.

Source: org.freedesktop.systemd1(5), systemd.scope(5), systemd.kill(5), https://systemd.io/CGROUP_DELEGATION/.
"""

from __future__ import annotations

import os
import time

from rl.errors import RlError, UnsupportedError, UsageError
from rl.kernel.proc import outer_uid
from rl.runtime.cgroup import dbus
from rl.runtime.cgroup.group import ROOT, Cgroup, own_path, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PAYLOAD = "container"
SUPERVISOR = "supervisor"
STOP_SIGNAL = 23  # SIGURG: ignored unless a program asks for it
#: Seconds for systemd to answer and to finish a job.
PATIENCE = 15.0
_NAME = "org.freedesktop.systemd1"
_OBJECT = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT_EXISTS = f"{_NAME}.UnitExists"
_NO_SUCH_UNIT = f"{_NAME}.NoSuchUnit"


def private_socket(uid: int) -> str:
    """systemd's own socket of the manager that is responsible for *uid*."""
    if uid == 0:
        return "/run/systemd/private"
    return f"{_runtime_dir(uid)}/systemd/private"


def _runtime_dir(uid: int) -> str:
    """Where the user manager's sockets are; XDG_RUNTIME_DIR may have been set to some other place, or not at all."""
    usual = f"/run/user/{uid}"
    named = os.environ.get("XDG_RUNTIME_DIR") or usual
    return named if os.path.isdir(f"{named}/systemd") else usual


def is_there() -> bool:
    """Whether a systemd manages this user; one or two file accesses, nobody is asked."""
    uid = outer_uid()
    return os.path.exists(private_socket(uid)) or (uid != 0 and _user_bus_has_systemd(uid))


def _user_bus_has_systemd(uid: int) -> bool:
    """The user's bus, with the directory that a user manager keeps: its private socket may be out of reach."""
    return os.path.isdir(f"{_runtime_dir(uid)}/systemd") and bool(_bus_address(uid))


def _bus_address(uid: int) -> str | bytes:
    """The bus behind the private socket: a path, or the bytes of an abstract name; "" when there is none."""
    if uid == 0:
        path = "/run/dbus/system_bus_socket"
        return path if os.path.exists(path) else ""
    for address in os.environ.get("DBUS_SESSION_BUS_ADDRESS", "").split(";"):
        kind, _, rest = address.partition(":")
        pairs = dict(pair.split("=", 1) for pair in rest.split(",") if "=" in pair)
        if kind == "unix" and "path" in pairs:
            return _unescape(pairs["path"])
        if kind == "unix" and "abstract" in pairs:
            return b"\0" + _unescape(pairs["abstract"]).encode()
    path = f"{_runtime_dir(uid)}/bus"
    return path if os.path.exists(path) else ""


def _unescape(text: str) -> str:
    """D-Bus addresses write odd bytes as %XX."""
    first, *rest = text.split("%")
    return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)


def connect(timeout: float = PATIENCE) -> dbus.Connection:
    """A connection to the manager: its private socket, else the bus. Raises RlError with the reason for neither."""
    uid = outer_uid()
    private = private_socket(uid)
    try:
        return dbus.Connection(private, timeout)
    except (OSError, dbus.DBusError) as error:
        reason = f"{private}: {getattr(error, 'strerror', '') or error}"
    bus = _bus_address(uid)
    if not bus:
        raise RlError(f"reach systemd: {reason}", _unreachable_hint(uid))
    try:
        connection = dbus.Connection(bus, timeout, is_bus=True)
        connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        return connection
    except OSError as error:
        raise RlError(f"reach systemd: {reason}; {bus!r}: {error.strerror}", _unreachable_hint(uid)) from None


def _unreachable_hint(uid: int) -> str:
    if uid == 0:
        return "is systemd running? see: systemctl status"
    return f"sudo systemctl start user@{uid}.service, or log in so that it starts (loginctl enable-linger keeps it)"


def _ask(connection: dbus.Connection, member: str, signature: str = "", values: Sequence[Any] = ()) -> list[Any]:
    return connection.call(_NAME, _OBJECT, _MANAGER, member, signature, values)


def subscribe(connection: dbus.Connection) -> None:
    """On a bus, signals come to those who ask for them; the private socket gives them all."""
    if connection.is_bus:
        rule = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
        bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        connection.call(*bus, "AddMatch", "s", [rule])
        _ask(connection, "Subscribe")


def _get(connection: dbus.Connection, path: str, interface: str, name: str) -> Any:
    """A property."""
    return connection.call(_NAME, path, "org.freedesktop.DBus.Properties", "Get", "ss", [interface, name])[0]


def delegated() -> tuple[str, tuple[str, ...]]:
    """(cgroup of the manager, controllers it may hand on): what limits are possible. Raises RlError."""
    connection = connect()
    try:
        path = str(_get(connection, _OBJECT, _MANAGER, "ControlGroup"))  # all its units are below
    finally:
        connection.close()
    try:
        with open(f"{ROOT}{path}/cgroup.controllers", encoding="utf-8") as file:
            return path, tuple(file.read().split())
    except OSError as error:
        raise RlError(f"read the controllers of {path}: {error.strerror}") from None


def is_delegated(unit: str) -> bool:
    """Whether the cgroup of *unit* is its owner's to divide. Raises RlError when systemd cannot be asked."""
    kind = unit.rpartition(".")[2].capitalize()
    if kind not in ("Scope", "Service"):
        return False
    connection = connect()
    try:
        path = str(_ask(connection, "GetUnit", "s", [unit])[0])
        return bool(_get(connection, path, f"{_NAME}.{kind}", "Delegate"))
    except dbus.DBusError as error:
        if error.name == _NO_SUCH_UNIT:
            return False
        raise
    finally:
        connection.close()


class Scope:
    """One transient scope: ``begin`` asks for it, ``finish`` waits until it is there.

    *unit* is its name, *slice_* the slice it is made in. Between begin and finish the caller may do other work.
    ``directory`` is its cgroup afterwards.
    """

    __slots__ = ("_connection", "_pids", "_properties", "_serial", "directory", "unit")

    def __init__(self, unit: str, slice_: str, description: str, stop_seconds: float = 0) -> None:
        self.unit = unit
        self.directory = ""
        self._connection: dbus.Connection | None = None
        self._serial = 0
        self._pids: list[int] = []
        self._properties: list[tuple[str, tuple[str, Any]]] = [
            ("Description", ("s", description)),
            ("Slice", ("s", slice_)),
            ("Delegate", ("b", True)),
            ("CollectMode", ("s", "inactive-or-failed")),
        ]
        if stop_seconds:
            self._properties += [
                ("KillSignal", ("i", STOP_SIGNAL)),
                ("TimeoutStopUSec", ("t", int(stop_seconds * 1_000_000))),
            ]

    def begin(self, pids: list[int]) -> None:
        """Ask for the scope, with these processes in it. Raises RlError."""
        self._pids = pids
        self._connection = connect()
        try:
            subscribe(self._connection)
            self._send(self._connection)
        except BaseException:
            self.cancel()
            raise

    def _send(self, connection: dbus.Connection) -> None:
        properties = [*self._properties, ("PIDs", ("au", self._pids))]
        values: tuple[Any, ...] = (self.unit, "fail", properties, [])
        self._serial = connection.send(_NAME, _OBJECT, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", values)

    def finish(self) -> None:
        """Wait for it. Raises RlError; then there is none."""
        connection, self._connection = self._connection, None
        assert connection is not None
        connection.deadline = time.monotonic() + PATIENCE
        try:
            job = self._job(connection)
            result = ""
            while not result:
                _, path, _, said = connection.signal("JobRemoved")
                result = said if path == job else ""
            if result != "done":
                raise RlError(f"start {self.unit}: systemd says {result}", f"see: {_journal(self.unit)}")
        except dbus.DBusError as error:
            # Who does not read for long, copying a root file system meanwhile, is cut off: then it is there long since.
            if not self._directory():
                raise RlError(f"start {self.unit}: {error.message}", error.hint) from None
        finally:
            connection.close()
        self.directory = self._directory()
        if not self.directory:
            raise RlError(f"start {self.unit}: process {self._pids[0]} is not in it", "has it ended meanwhile?")

    def _directory(self) -> str:
        """The scope's cgroup, by the place of its first process; "" if that is not in it."""
        place = own_path(str(self._pids[0]))
        return ROOT + place if place.endswith("/" + self.unit) else ""

    def _job(self, connection: dbus.Connection) -> str:
        """The job that systemd made of our wish; a scope of an earlier start goes out of the way first."""
        for attempt in range(40):
            try:
                return str(connection.answer(self._serial)[0])
            except dbus.DBusError as error:
                if error.name != _UNIT_EXISTS or attempt == 39:
                    raise
            if attempt == 0:
                _reset_failed(connection, self.unit)
            time.sleep(0.025)  # it is on its way out, for its last process has ended
            self._send(connection)
        raise AssertionError

    def cancel(self) -> None:
        """Do not wait any more; what was asked for ends with its processes."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _journal(unit: str) -> str:
    user = "--user " if outer_uid() else ""
    return f"journalctl {user}--unit {unit}"


def _reset_failed(connection: dbus.Connection, unit: str) -> None:
    try:
        _ask(connection, "ResetFailedUnit", "s", [unit])
    except dbus.DBusError:
        pass  # it has not failed


def attach(unit: str, below: str, pids: list[int]) -> None:
    """Have systemd move *pids* into the cgroup *below* (such as ``/container``) of a living scope. Raises RlError.

    systemd can move what we may not: a process whose cgroup has no ancestor of ours in common with the scope.
    """
    connection = connect()
    try:
        _ask(connection, "AttachProcessesToUnit", "ssau", [unit, below, pids])
    except dbus.DBusError as error:
        raise RlError(f"move process {pids[0]} into {unit}: {error.message}", error.hint) from None
    finally:
        connection.close()


def stop(unit: str, timeout: float = PATIENCE) -> None:
    """End a scope that lingers, with all in it, and forget that it failed. Raises RlError."""
    connection = connect(timeout)
    try:
        subscribe(connection)
        job = str(_ask(connection, "StopUnit", "ss", [unit, "replace"])[0])
        while connection.signal("JobRemoved")[1] != job:
            pass
        _reset_failed(connection, unit)
    except dbus.DBusError as error:
        if error.name != _NO_SUCH_UNIT:
            raise RlError(f"stop {unit}: {error.message}", error.hint) from None
    finally:
        connection.close()


def collect(directory: str) -> None:
    """See to it that the scope with cgroup *directory* goes, now that it may be empty; it goes by itself as a rule."""
    for _ in range(20):
        try:
            if "populated 1" in read(f"{directory}/cgroup.events"):
                return  # a monitor that has more to do, or somebody's exec
        except OSError:
            return
        time.sleep(0.025)
    try:
        stop(os.path.basename(directory))
    except RlError:
        pass  # an empty cgroup is left, which costs nothing and which the next start takes over


def unit_of(path: str) -> str:
    """The scope whose cgroup *path* is, or is the leaf of; "" when it is none."""
    for name in (os.path.basename(path), os.path.basename(os.path.dirname(path))):
        if name.endswith(".scope"):
            return name
    return ""


def parse_path(cgroups_path: str, container_id: str, uid: int) -> tuple[str, str]:
    """(slice, unit) of an OCI ``cgroupsPath``, which for systemd is ``slice:prefix:name`` (runc). Raises UsageError."""
    default = "system.slice" if uid == 0 else "user.slice"
    if not cgroups_path:
        return default, f"rl-{container_id}.scope"
    parts = cgroups_path.split(":")
    if len(parts) != 3 or not parts[2]:
        raise UsageError(
            f"linux.cgroupsPath {cgroups_path!r}: with the systemd cgroup manager it must be slice:prefix:name",
            "write system.slice:rl:NAME, or leave it out",
        )
    parent, prefix, name = parts
    check_slice(parent)
    if name.endswith((".slice", "/")) or "/" in name or "/" in prefix:
        raise UsageError(f"linux.cgroupsPath {cgroups_path!r}: {name!r} cannot be the name of a scope")
    return parent or default, f"{prefix}-{name}.scope" if prefix else f"{name}.scope"


def for_path(cgroups_path: str, container_id: str, description: str) -> Systemd:
    """The manager for an OCI ``cgroupsPath``. Raises UsageError, UnsupportedError where there is no systemd."""
    uid = outer_uid()
    if not is_there():
        raise UnsupportedError("no systemd manages this user: there is no scope to be had", _unreachable_hint(uid))
    return Systemd(*parse_path(cgroups_path, container_id, uid), description)


def check_slice(name: str) -> None:
    """Raises UsageError unless *name* can be a slice's, "" included."""
    stem = name.removesuffix(".slice")
    dashes = stem != "-" and (stem.startswith("-") or stem.endswith("-") or "--" in stem)
    if name and (stem in ("", name) or "/" in name or dashes):
        raise UsageError(
            f"cgroup parent {name!r} is not the name of a systemd slice", "write it as NAME.slice, or PARENT-NAME.slice"
        )


class Systemd:
    """The manager for callers that know the process only once it exists: `rl-runtime`, and ``--cgroups=no-conmon``.

    ``path`` is known after :meth:`attach`.
    """

    kind = "systemd"
    procs_path = ""  # nobody can be born into a scope that is made of his pid

    def __init__(self, slice_: str, unit: str, description: str) -> None:
        self._scope = Scope(unit, slice_, description)
        self.unit = unit
        self.path = ""

    def prepare(self) -> None:
        """Nothing: the scope comes with its first process."""

    def attach(self, pid: int) -> None:
        """Make the scope around process *pid* and move that into its leaf. Raises RlError."""
        self._scope.begin([pid])
        self._scope.finish()
        self.path = leaf(self._scope.directory, PAYLOAD, pid)

    def apply(self, resources: dict[str, Any]) -> list[str]:
        """As :meth:`Cgroup.apply`."""
        return Cgroup(self.path, os.path.dirname(self.path)).apply(resources)


def leaf(scope: str, name: str, pid: int = 0) -> str:
    """Make cgroup *name* below the scope's and move *pid* from the scope there; its path. Raises RlError."""
    path = f"{scope}/{name}"
    try:
        os.makedirs(path, exist_ok=True)
        if pid:
            write(f"{path}/cgroup.procs", str(pid))
    except OSError as error:
        raise RlError(f"create cgroup {path}: {error.strerror}") from None
    return path

"""The storage drivers behind one interface, which of them this host can use, and which one to take.

A driver stacks layers and a writable directory at a mount point. It is called inside the
monitor's user and mount namespace; mounts die with that namespace. Containers record the driver
they were made with, so several live side by side.

``choose`` and ``probes`` are called by the engine, outside. A probe is a real mount attempt in the
data directory (file systems lie: NFS, nested overlay, eCryptfs), made by a forked child in the user
namespace, and remembered for this boot.
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json, write_json
from rl.errors import RlError, UnsupportedError, UsageError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol, TypedDict

    from rl.config.model import IdRange
    from rl.config.paths import Paths

    IdMaps = tuple[list[IdRange], list[IdRange]]  # uids and gids: (id in the layers, shared id, count)

    class Mounted(TypedDict):
        """What :meth:`Driver.mount` leaves: where, and the helper processes that serve it."""

        driver: str
        target: str
        pids: list[int]

    class ProbeResult(TypedDict):
        name: str
        usable: bool
        reason: str

    class Driver(Protocol):
        """One way to make a root file system of layers."""

        name: str

        def probe(self, paths: Paths) -> str:
            """Why this driver cannot be used here, "" when it can. Called inside the user namespace."""

        def mount(
            self, lowers: list[str], upper: str, work: str, target: str, *,
            readonly: bool = False, volatile: bool = True, data: Sequence[str] = (), id_maps: IdMaps | None = None,
        ) -> Mounted:
            """Stack *lowers* (top first) under the writable *upper* at the directory *target*.

            *work* is a directory beside *upper* for the driver's own use. An empty *upper* gives a
            read-only stack. *volatile* gives up durability of what is written, for speed.
            *data* (overlay only): see :mod:`rl.storage.metatree`. *id_maps* (fuse-overlayfs and copy only): what
            belongs to *c* in the layers shall belong to its counterpart in the maps. Raises RlError.
            """

        def unmount(self, mounted: Mounted) -> None:
            """Undo :meth:`mount`; what is still busy is detached. Helpers have ended when this returns."""


#: Best first: what `choose` takes when nothing is asked.
NAMES = ("overlay", "fuse-overlayfs", "copy")

# What storage.conf and Podman's users call them.
_ALIASES = {"overlay2": "overlay", "vfs": "copy", "fuse": "fuse-overlayfs"}


def by_name(name: str) -> Driver:
    """The driver called *name*. Raises UsageError."""
    name = _ALIASES.get(name, name)
    if name == "overlay":
        from rl.storage.overlay import Overlay

        return Overlay()
    if name == "fuse-overlayfs":
        from rl.storage.fuse_overlayfs import FuseOverlayfs

        return FuseOverlayfs()
    if name == "copy":
        from rl.storage.copy import Copy

        return Copy()
    raise UsageError(f"there is no storage driver {name!r}", "choose one of " + ", ".join(NAMES))


def choose(paths: Paths, wanted: str = "") -> Driver:
    """The driver for a new container: *wanted*, else what storage.conf says, else the best usable.

    Raises UsageError for an unknown name, UnsupportedError when the one asked for cannot work here.
    """
    source = "--storage-driver"
    if not wanted:
        wanted, source = configured(paths)
    if wanted:
        driver = by_name(wanted)
        reason = _reason(_results(paths), driver.name)
        if reason:  # what it lacks may be there by now
            reason = _reason(_results(paths, fresh=True), driver.name)
        if reason:
            raise UnsupportedError(
                f"storage driver {driver.name} (asked for by {source}) cannot be used here: {reason}",
                "`rl info` lists the drivers and what each one lacks",
            )
        return driver
    for fresh in (False, True):
        results = _results(paths, fresh)
        for name in NAMES:
            if not _reason(results, name):
                return by_name(name)
    reasons = "; ".join(f"{name}: {_reason(results, name)}" for name in NAMES)
    raise UnsupportedError(
        f"no storage driver can be used in {paths.data}: {reasons}", "put the data on a local file system with --root"
    )


def probes(paths: Paths) -> list[ProbeResult]:
    """Every driver, whether it works here, and why not; for `rl info`. Probed anew."""
    results = _results(paths, fresh=True)
    return [{"name": name, "usable": not _reason(results, name), "reason": _reason(results, name)} for name in NAMES]


def _reason(results: dict[str, str], name: str) -> str:
    return results.get(name, "not probed")


def default_key(paths: Paths) -> str:
    """The id key of layers for containers in the shared namespace: "", or "single" where one id is all there is."""
    return "single" if _results(paths).get("id mode") == "single" else ""


def data_layers(paths: Paths) -> bool:
    """Whether the kernel's overlay can have data-only layers here: then another owner costs no copy of the data."""
    return not _results(paths).get("data layers", "not probed")


def usable(paths: Paths, name: str) -> bool:
    """Whether driver *name* works here."""
    return not _reason(_results(paths), name)


def configured(paths: Paths) -> tuple[str, str]:
    """(driver, file that says so) of storage.conf, ("", "") when none does (containers-storage.conf(5)).

    What a file says is remembered with its time and size: a TOML parser costs 20 ms.
    """
    memory = f"{paths.run}/storage-conf.json"
    known: dict[str, Any] | None = None
    for path in (os.environ.get("CONTAINERS_STORAGE_CONF", ""), f"{paths.config}/storage.conf",
                 "/etc/containers/storage.conf"):
        try:
            status = os.stat(path)
        except OSError:
            continue
        stamp = [status.st_mtime_ns, status.st_size, status.st_ino]
        if known is None:
            known = _read_memory(memory)
        entry = known.get(path)
        if not isinstance(entry, list) or entry[:1] != [stamp]:
            from rl.storage import storageconf

            entry = known[path] = [stamp, storageconf.driver(path)]
            try:
                write_json(memory, known, sync=False)
            except OSError:
                pass  # a full disk costs the memory, not the answer
        if entry[1]:
            return str(entry[1]), path
    return "", ""


def _read_memory(path: str) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


# --------------------------------------------------------------------------- the probes' memory


def _cache_key(paths: Paths) -> str:
    """What the result depends on: kernel, boot, file system of the data, the FUSE program."""
    try:
        device = os.stat(paths.data).st_dev
        boot = os.stat("/proc/1").st_ctime_ns  # cheaper than reading the boot id, as unique
    except OSError:
        return ""
    parts = ["2", os.uname().release, str(boot), str(device), userns.find_program("fuse-overlayfs")]
    for path in ("/dev/fuse", "/etc/subuid", "/etc/subgid"):
        try:
            parts.append(str(os.stat(path).st_mtime_ns))
        except OSError:
            parts.append("-")
    return " ".join(parts)


def _results(paths: Paths, fresh: bool = False) -> dict[str, str]:
    """Driver name to the reason why it is unusable ("" = usable); ``id mode`` to full, root or single."""
    path = f"{paths.run}/storage-probe.json"
    key = _cache_key(paths)
    if not fresh:
        try:
            record = read_json(path)
            if record["key"] == key and isinstance(record["reasons"], dict):
                return dict(record["reasons"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    reasons: dict[str, str] = userns.call(paths.run, probe_all, paths.data, paths.run, paths.config, paths.cache)
    try:
        write_json(path, {"key": key, "reasons": reasons}, sync=False)
    except OSError:
        pass  # a full disk costs the memory, not the answer
    return reasons


def probe_all(data: str, run: str, config: str, cache: str) -> dict[str, str]:
    """Every driver's :meth:`Driver.probe`. Runs inside the user namespace."""
    from rl.config.paths import Paths

    paths = Paths(data, run, config, cache)
    reasons = {"id mode": userns.current_mode()}
    for name in NAMES:
        try:
            reasons[name] = by_name(name).probe(paths)
        except (OSError, RlError) as error:
            reasons[name] = str(error) or type(error).__name__
    if not reasons["overlay"]:
        from rl.storage.overlay import probe_data_layers

        reasons["data layers"] = probe_data_layers(paths)
    return reasons

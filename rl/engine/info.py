"""`rl info`: the host and this rl as one document, with Podman's keys, and the capability ladder under ``rl``."""

from __future__ import annotations

import os
from typing import Any

from rl.engine import containers, hostfacts
from rl.engine.ladder import LOG_DRIVERS, ladder
from rl.engine.spec.security import DEFAULT_CAPABILITIES
from rl.errors import RlError
from rl.runtime import cgroup, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def info(engine: Engine) -> dict[str, Any]:
    """The document of podman-info(1), without what rl does not have (conmon, events, a remote socket).

    A broken registries.conf or record does not keep the rest from being shown: ``engine.warn`` tells it.
    """
    from rl.engine.version import client

    rungs = ladder(engine)
    document = {
        "host": _host(engine, rungs),
        "store": _store(engine, rungs),
        "registries": _registries(engine),
        "plugins": {
            "authorization": None,
            "log": list(LOG_DRIVERS),
            "network": [rung["name"] for rung in rungs["network"]["rungs"]],
            "volume": ["local"],
        },
        "version": client(),
        "rl": rungs,
    }
    found: dict[str, Any] = _named(document)
    return found


class Document(dict[str, Any]):
    """A dict whose values can be asked for by the names of Podman's Go fields too, as templates do.

    Podman prints ``host.cgroupVersion``, but its templates say ``{{.Host.CgroupsVersion}}``.
    """

    __slots__ = ()
    _UNLIKE = {"CgroupsVersion": "cgroupVersion", "DefaultCapabilities": "capabilities"}

    def _key(self, name: Any) -> Any:
        if dict.__contains__(self, name) or not isinstance(name, str) or not name[:1].isupper():
            return name
        plain = name.lower()
        return self._UNLIKE.get(name) or next((key for key in self if key.replace("_", "").lower() == plain), name)

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, self._key(name))

    def __getitem__(self, name: str) -> Any:
        return dict.__getitem__(self, self._key(name))


def _named(value: Any) -> Any:
    """*value* with every dict in it a :class:`Document`."""
    if isinstance(value, dict):
        return Document({key: _named(item) for key, item in value.items()})
    if isinstance(value, list):
        return [_named(item) for item in value]
    return value


def _host(engine: Engine, rungs: dict[str, Any]) -> dict[str, Any]:
    from rl.image.archive import this_platform

    uname = os.uname()
    v2 = os.path.exists(f"{cgroup.ROOT}/cgroup.controllers")
    network = rungs["network"]["inUse"]
    return {
        "arch": this_platform()[1],
        "cgroupControllers": rungs["limits"].get("controllers", []),
        "cgroupManager": {"none": "disabled"}.get(rungs["limits"]["inUse"], rungs["limits"]["inUse"]),
        "cgroupVersion": "v2" if v2 else "v1",
        "cpuUtilization": hostfacts.cpu_utilization(),
        "cpus": os.cpu_count() or 1,
        "distribution": hostfacts.distribution(),
        "eventLogger": "none",
        "hostname": uname.nodename,
        "idMappings": _id_mappings(rungs),
        "kernel": uname.release,
        "logDriver": rungs["logs"]["inUse"],
        "networkBackend": "rl",
        "ociRuntime": _runtime(engine),
        "os": "linux",
        "pasta": hostfacts.program("pasta"),
        "rootlessNetworkCmd": network,
        "security": _security(),
        "serviceIsRemote": False,
        "slirp4netns": hostfacts.program("slirp4netns"),
        "uptime": hostfacts.uptime(),
        **hostfacts.memory(),
    }


def _id_mappings(rungs: dict[str, Any]) -> dict[str, Any]:
    """The maps of the shared user namespace, in the host's ids."""
    maps = userns.wanted_maps()
    if rungs["ids"]["inUse"] == "none":
        return {"uidmap": [], "gidmap": []}
    uid, gid = maps.uid, maps.gid
    if rungs["ids"]["inUse"] == "single id":
        uid, gid = [(0, os.getuid(), 1)], [(0, os.getgid(), 1)]
    keys = ("container_id", "host_id", "size")
    return {
        "uidmap": [dict(zip(keys, triple, strict=True)) for triple in uid],
        "gidmap": [dict(zip(keys, triple, strict=True)) for triple in gid],
    }


def _runtime(engine: Engine) -> dict[str, str]:
    import rl
    from rl import runtime

    name = str(engine.options.get("runtime") or "rl")
    if name == "rl":
        path = os.path.dirname(os.path.abspath(runtime.__file__))
        return {"name": "rl", "package": "", "path": path, "version": f"rl {rl.__version__}, built in"}
    found = hostfacts.program(name)
    return {
        "name": os.path.basename(name), "package": found["package"], "path": found["executable"],
        "version": found["version"],
    }  # fmt: skip


def _security() -> dict[str, Any]:
    """What rl applies, not what the host has: rl sets no AppArmor profile and no SELinux label."""
    return {
        "apparmorEnabled": False,
        "capabilities": ",".join(DEFAULT_CAPABILITIES),
        "rootless": os.getuid() != 0,
        "seccompEnabled": bool(hostfacts.read("/proc/sys/kernel/seccomp/actions_avail")),
        "seccompProfilePath": "default",
        "selinuxEnabled": False,
    }


def _store(engine: Engine, rungs: dict[str, Any]) -> dict[str, Any]:
    from rl.storage import driver

    paths = engine.paths
    space = os.statvfs(paths.data)
    try:
        configured = driver.configured(paths)[1]
    except RlError as error:
        engine.warn(error.message)
        configured = ""
    return {
        "configFile": configured or f"{paths.config}/storage.conf",
        "containerStore": _containers(engine),
        "graphDriverName": rungs["rootfs"]["inUse"],
        "graphOptions": {},
        "graphRoot": paths.data,
        "graphRootAllocated": space.f_blocks * space.f_frsize,
        "graphRootUsed": (space.f_blocks - space.f_bfree) * space.f_frsize,
        "graphStatus": {"Backing Filesystem": hostfacts.file_system(paths.data)},
        "imageStore": {"number": _images(engine)},
        "runRoot": paths.run,
        "volumePath": paths.volumes,
    }


def _containers(engine: Engine) -> dict[str, int]:
    """Podman's counts: a container that was created and never started is a stopped one."""
    counts = {"number": 0, "paused": 0, "running": 0, "stopped": 0}
    for container_id in containers.ids(engine.paths):
        try:
            status = containers.read_state(engine.paths, container_id).get("status", "")
        except RlError as error:
            engine.warn(error.message)
            continue
        counts["number"] += 1
        counts["running" if status in ("running", "stopping") else "paused" if status == "paused" else "stopped"] += 1
    return counts


def _images(engine: Engine) -> int:
    from rl.image import store

    records, broken = store.list_images(engine.paths)
    for error in broken:
        engine.warn(error.message)
    return len({record["id"] for record in records})


def _registries(engine: Engine) -> dict[str, Any]:
    from rl.image import registries_conf

    try:
        conf = registries_conf.load(engine.paths)
    except RlError as error:
        engine.warn(error.message)
        return {}
    found: dict[str, Any] = {"search": conf.search} if conf.search else {}
    return {**found, **conf.registries}

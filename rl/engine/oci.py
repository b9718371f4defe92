"""From a container's record to the OCI runtime specification (config.json of the bundle).

Pure data: everything that had to be looked up (the user's numbers, the paths of namespaces and volumes)
arrives in a :class:`Context`. Source: opencontainers/runtime-spec 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import os

from rl.engine.spec import security

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, MountSpec


class Context:
    """What the monitor knows when it makes the specification."""

    __slots__ = ("additional_gids", "binds", "cgroup_path", "gid", "home", "id_mode", "keep_groups", "namespaces",
                 "resources", "rootfs", "seccomp", "secrets", "shared_memory", "sources", "uid", "volumes")

    def __init__(self) -> None:
        self.rootfs = ""
        self.shared_memory = ""  # where another container's /dev/shm is mounted
        self.uid = 0
        self.gid = 0
        self.additional_gids: list[int] = []
        self.keep_groups = False  # --group-add keep-groups: the caller's own
        self.home = "/"
        self.id_mode = "full"
        self.namespaces: dict[str, str] = {}  # kind → path to join
        self.binds: list[tuple[str, str]] = []  # (file on the host, path in the container): hosts, resolv.conf …
        self.secrets: list[tuple[str, str]] = []  # the same, for --secret
        self.volumes: dict[str, str] = {}  # destination → directory of the volume
        self.sources: dict[str, str] = {}  # destination → what rl.engine.mountpoints has mounted for it
        self.seccomp: dict[str, Any] | None = None
        self.resources: dict[str, Any] = {}
        self.cgroup_path = ""


def specification(config: ContainerConfig, context: Context) -> dict[str, Any]:
    """The whole config.json."""
    chosen = security.security_options(config["security_opt"])
    masked, readonly = security.paths_to_hide(chosen, config["privileged"])
    linux: dict[str, Any] = {
        "namespaces": _namespaces(config, context),
        "maskedPaths": masked,
        "readonlyPaths": readonly,
    }
    if config["uid_map"]:
        linux["uidMappings"] = [_mapping(r) for r in config["uid_map"]]
        linux["gidMappings"] = [_mapping(r) for r in config["gid_map"]]
    if config["sysctl"]:
        linux["sysctl"] = config["sysctl"]
    if context.resources:
        linux["resources"] = context.resources
    if context.cgroup_path:
        linux["cgroupsPath"] = context.cgroup_path
    if context.seccomp is not None:
        linux["seccomp"] = context.seccomp
    result: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": _process(config, context, chosen),
        "root": {"path": context.rootfs, "readonly": config["read_only"]},
        "mounts": _mounts(config, context),
        "linux": linux,
        "annotations": {
            **config["annotations"],
            "io.container.manager": "rl",
            "org.opencontainers.image.stopSignal": str(config["stop_signal"]),
        },
    }
    if context.keep_groups:
        result["annotations"]["run.oci.keep_original_groups"] = "1"  # crun's, and our runtime knows it
    if config["options"].get("personality"):
        linux["personality"] = {"domain": config["options"]["personality"].upper()}
    if config["uts_mode"] == "private":
        result["hostname"] = config["hostname"]
    return result


def _mapping(triple: tuple[int, int, int]) -> dict[str, int]:
    return {"containerID": triple[0], "hostID": triple[1], "size": triple[2]}


def _process(config: ContainerConfig, context: Context, chosen: security.SecurityOptions) -> dict[str, Any]:
    env = list(config["env"])
    names = {line.partition("=")[0] for line in env}
    if "HOSTNAME" not in names:
        env.append(f"HOSTNAME={config['hostname']}")
    if "HOME" not in names:
        env.append(f"HOME={context.home}")
    command = config["command"]
    if config["init"]:
        command = ["/run/rl-init", "--", *command]
    process: dict[str, Any] = {
        "terminal": config["terminal"],
        "user": {"uid": context.uid, "gid": context.gid, "umask": int(config["umask"], 8),
                 "additionalGids": context.additional_gids},
        "args": command,
        "env": env,
        "cwd": config["workdir"],
        "capabilities": process_capabilities(config, context.uid),
        "noNewPrivileges": chosen.no_new_privileges,
    }
    if chosen.apparmor:
        process["apparmorProfile"] = chosen.apparmor
    if "oom_score_adj" in config["options"]:
        process["oomScoreAdj"] = int(config["options"]["oom_score_adj"])
    rlimits = security.ulimits(config["ulimits"])
    if rlimits:
        process["rlimits"] = rlimits
    return process


def process_capabilities(config: ContainerConfig, uid: int) -> dict[str, list[str]]:
    """The five capability sets: root gets the bounding set; others only what was added by name."""
    bounding, added = security.capabilities(config["cap_add"], config["cap_drop"], config["privileged"])
    if uid == 0:
        return {"bounding": bounding, "effective": bounding, "permitted": bounding, "inheritable": [], "ambient": []}
    added = [name for name in added if name in bounding]
    return {"bounding": bounding, "effective": added, "permitted": added, "inheritable": added, "ambient": added}


_NAMESPACES = (("pid", "pid_mode"), ("ipc", "ipc_mode"), ("uts", "uts_mode"), ("cgroup", "cgroupns_mode"))


def _namespaces(config: ContainerConfig, context: Context) -> list[dict[str, str]]:
    result = [{"type": "mount"}]
    for kind, path in context.namespaces.items():
        result.append({"type": kind, "path": path})
    for kind, key in _NAMESPACES:
        mode: str = config[key]  # type: ignore[literal-required]
        if kind not in context.namespaces and mode != "host":
            result.append({"type": kind})
    return result


def _mounts(config: ContainerConfig, context: Context) -> list[dict[str, Any]]:
    """The standard mounts, then the files we make, then what was asked for, parents before children."""
    requested = [_requested(spec, context, config) for spec in config["mounts"]]
    requested += [_bound(source, destination) for source, destination in context.secrets]
    taken = {mount["destination"] for mount in requested}
    result = [mount for mount in _standard(config, context) if mount["destination"] not in taken]
    for source, destination in context.binds:
        if destination not in taken:
            result.append(_bound(source, destination))
    for base in config["options"].get("chrootdirs", []):
        result += [_bound(source, f"{base.rstrip('/')}{destination}")
                   for source, destination in context.binds if destination.startswith("/etc/")]
    result += sorted(requested, key=lambda mount: str(mount["destination"]).count("/"))
    result += _devices(config)
    if config["init"]:
        result.append({"destination": "/run/rl-init", "type": "bind", "source": config["options"]["init_path"],
                       "options": ["bind", "ro", "rprivate"]})
    return result


def _bound(source: str, destination: str) -> dict[str, Any]:
    """A file or directory of ours."""
    return {"destination": destination, "type": "bind", "source": source,
            "options": ["bind", "rprivate", "nosuid", "nodev"]}


def _mount(destination: str, fstype: str, options: str, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": fstype, "source": source or fstype, "options": options.split(",")}


def _standard(config: ContainerConfig, context: Context) -> list[dict[str, Any]]:
    tty_gid = "" if context.id_mode == "single" else ",gid=5"
    sys_mode = "rw" if config["privileged"] else "ro"
    own_cgroups = bool(config.get("systemd")) and config["cgroupns_mode"] == "private"
    cgroup_mode = "rw" if own_cgroups else sys_mode
    proc_options = ",".join(["nosuid", "noexec", "nodev", *security.security_options(config["security_opt"]).proc])
    mounts = [
        _mount("/proc", "proc", proc_options),
        _mount("/dev", "tmpfs", "nosuid,noexec,strictatime,mode=755,size=65536k"),
        _mount("/sys", "sysfs", f"nosuid,noexec,nodev,{sys_mode}"),
        _mount("/dev/pts", "devpts", f"nosuid,noexec,newinstance,ptmxmode=0666,mode=0620{tty_gid}"),
        _mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        _mount("/sys/fs/cgroup", "cgroup", f"rprivate,nosuid,noexec,nodev,relatime,{cgroup_mode}"),
    ]
    if config["pid_mode"] == "host":
        mounts[0] = {"destination": "/proc", "type": "bind", "source": "/proc",
                     "options": ["rbind", "rslave", "nosuid", "noexec", "nodev"]}
    if config["ipc_mode"] == "host":
        del mounts[4]
        mounts += [
            {"destination": path, "type": "bind", "source": path, "options": ["bind", "nosuid", "noexec", "nodev"]}
            for path in ("/dev/mqueue", "/dev/shm") if os.path.isdir(path)
        ]
    elif context.shared_memory:
        mounts.append({"destination": "/dev/shm", "type": "bind", "source": context.shared_memory,
                       "options": ["bind", "rprivate", "nosuid", "noexec", "nodev"]})
    elif config["ipc_mode"] != "none":
        options = f"rprivate,nosuid,noexec,nodev,mode=1777,size={config['shm_size']}"
        mounts.append(_mount("/dev/shm", "tmpfs", options, "shm"))
    if config["read_only"] and config["read_only_tmpfs"]:
        for path in ("/run", "/tmp", "/var/tmp"):
            mode = "" if path == "/run" else ",mode=1777"
            mounts.append(_mount(path, "tmpfs", f"rw,rprivate,nosuid,nodev,tmpcopyup{mode}"))
    if config.get("systemd"):
        from rl.engine.spec import systemd

        there = {mount["destination"] for mount in mounts}
        mounts += [_mount(path, "tmpfs", how) for path, how in systemd.tmpfs(config["options"]) if path not in there]
    return mounts


def _requested(spec: MountSpec, context: Context, config: ContainerConfig) -> dict[str, Any]:
    """A mount that was asked for. On the host's files and on volumes no setuid programs and no devices, unless
    ``suid`` or ``dev`` is among the options (podman-run(1), "--volume")."""
    options = [option for option in spec.get("options", []) if option != "U"]
    entry: dict[str, Any] = {"destination": spec["destination"], "type": "bind", "options": options}
    source = context.sources.get(spec["destination"]) or context.volumes.get(spec["destination"]) or spec["source"]
    entry["source"] = source
    if spec["type"] in ("bind", "volume", "image"):
        if not any(option in _PROPAGATION for option in options):
            options.append("rprivate")
        recursive = [] if spec["type"] == "bind" else ["rbind"]
        entry["options"] = [*recursive, "nosuid", "nodev", *options]
        if "id_map" in spec:
            _map_ids(entry, spec, config)
        return entry
    entry["type"] = spec["type"]
    if "U" in spec.get("options", []):
        options += [f"uid={context.uid}", f"gid={context.gid}"]
    return entry


_PROPAGATION = frozenset(
    ("shared", "slave", "private", "rshared", "rslave", "rprivate", "unbindable", "runbindable")
)


def _map_ids(entry: dict[str, Any], spec: MountSpec, config: ContainerConfig) -> None:
    """The option idmap: the container's own map, or the one that was given."""
    from rl.engine.spec import id_mount

    entry["options"].append("idmap")
    wanted = spec["id_map"]
    if wanted:
        entry["uidMappings"] = id_mount.mappings(wanted["uids"], config["uid_map"])
        entry["gidMappings"] = id_mount.mappings(wanted["gids"], config["gid_map"])


def _devices(config: ContainerConfig) -> list[dict[str, Any]]:
    """Devices are bind mounts of the host's nodes: mknod(2) of a device is refused in a user namespace."""
    wanted = [security.device(item)[:2] for item in config["devices"]]
    if config["privileged"]:
        taken = {target for _, target in wanted}
        wanted += [(path, path) for path in _host_devices() if path not in taken]
    return [{"destination": target, "type": "bind", "source": host, "options": ["bind", "rprivate", "nosuid", "noexec"]}
            for host, target in wanted]


_OWN_DEVICES = frozenset(("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom",
                          "/dev/console", "/dev/ptmx"))


def _host_devices() -> list[str]:
    """Device nodes below /dev that the caller may open, for --privileged."""
    found = []
    for directory, names, files in os.walk("/dev"):
        names[:] = [name for name in names if name not in ("pts", "shm", "fd", "mqueue", "hugepages")]
        for name in files:
            path = f"{directory}/{name}"
            if path in _OWN_DEVICES or os.path.islink(path) or (directory == "/dev" and name.startswith("tty")):
                continue
            if os.access(path, os.R_OK) and not os.path.isfile(path):
                found.append(path)
    return found

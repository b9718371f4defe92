"""rl inspect: everything known of a container, in Podman's document with Podman's key names.

Called by the command line. On the hot path: `inspect --format '{{.State.ExitCode}}'` reads two small files.
Source of the names: podman-inspect(1).
"""

from __future__ import annotations

import os

from rl.config.signals import signal_name
from rl.engine import containers
from rl.engine.times import NEVER_TEXT, human_size
from rl.errors import NotFoundError, RlError, UsageError
from rl.runtime import sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig, ContainerState, MountSpec, PortMapping
    from rl.engine.context import Engine

_OCI_VERSION = "1.2.0"


def inspect(
    engine: Engine, names: list[str], type: str = "all", size: bool = False
) -> tuple[list[dict[str, Any]], list[RlError]]:
    """The documents of *names*, and an error for each that was not found.

    *type*: ``container``, ``image``, ``volume``, or ``all``: the first of these that has such a name.
    *size* adds what containers have written, in bytes.
    """
    if type not in ("all", *_KINDS):
        raise UsageError(f"inspect: there is no type {type!r}", f"use all, {', '.join(_KINDS)}")
    kinds = list(_KINDS) if type == "all" else [type]
    documents: list[dict[str, Any]] = []
    errors: list[RlError] = []
    for name in names:
        unknown: RlError = NotFoundError(f'no such object: "{name}"', "`rl ps -a` and `rl images` list what there is")
        for kind in kinds:
            try:
                documents.append(_KINDS[kind](engine, name, size))
                break
            except (NotFoundError, UsageError) as error:  # what cannot be an image's name is no image
                unknown = error if len(kinds) == 1 else unknown
            except RlError as error:
                errors.append(error)
                break
        else:
            errors.append(unknown)
    return documents, errors


def _image(engine: Engine, name: str, size: bool) -> dict[str, Any]:
    from rl.engine.image_inspect import image_inspect

    return image_inspect(engine, [name])[0]


def _volume(engine: Engine, name: str, size: bool) -> dict[str, Any]:
    from rl.engine.volume.inspect import document

    return document(engine.paths, name)


def container(engine: Engine, name: str, size: bool = False) -> dict[str, Any]:
    """Podman's container document. Raises NoSuchContainerError, AmbiguousNameError, CorruptRecordError."""
    container_id = containers.find(engine.paths, name)
    config = containers.read_config(engine.paths, container_id)
    if "limits" in config:
        config["limits"] = containers.limits(engine.paths, config)
    if "env" in config:
        config["env"] = containers.environment(engine.paths, config)
        config["restart"] = containers.restart_policy(engine.paths, config)
    found = document(engine, config, containers.read_state(engine.paths, container_id))
    if size:
        from rl.engine.ps import container_sizes

        measured = container_sizes(engine, [config])[0]
        found["SizeRw"], found["SizeRootFs"] = measured["rwSize"], measured["rootFsSize"]
    return found


def document(engine: Engine, config: ContainerConfig, state: ContainerState) -> dict[str, Any]:
    """The document of a container by its records; it need not be on disk yet."""
    container_id = config["id"]
    paths = engine.paths
    directory, run = paths.container(container_id), paths.container_run(container_id)
    command = config.get("command") or [""]
    caps, effective = _capabilities(config)
    return {
        "Id": container_id,
        "Created": config["created"],
        "Path": command[0],
        "Args": command[1:],
        "State": _state(engine, config, state),
        "Image": config.get("image_id", ""),
        "ImageDigest": _image_digest(engine, config),
        "ImageName": config.get("image", ""),
        "Rootfs": config.get("rootfs", ""),
        "Pod": "",
        "ResolvConfPath": _existing(f"{directory}/resolv.conf"),
        "HostnamePath": _existing(f"{directory}/hostname"),
        "HostsPath": _existing(f"{directory}/hosts"),
        "StaticDir": directory,
        "OCIConfigPath": _existing(f"{directory}/bundle/config.json"),
        "OCIRuntime": config.get("runtime", "rl"),
        "ConmonPidFile": config.get("options", {}).get("conmon_pidfile") or f"{run}/lock",
        "PidFile": config.get("options", {}).get("pidfile", ""),
        "Name": config["name"],
        "RestartCount": state.get("restarts", 0),
        "Driver": _driver(config, state),
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "EffectiveCaps": effective,
        "BoundingCaps": caps,
        "ExecIDs": [found[0] for found in sessions.living(run)],
        "GraphDriver": {"Name": _driver(config, state), "Data": _graph(engine, config, state)},
        "Mounts": [_mount(engine, spec) for spec in config.get("mounts", []) if spec.get("type") != "tmpfs"],
        "Dependencies": containers.needs(config),
        "NetworkSettings": _network(config, state),
        "Namespace": "",
        "IsInfra": False,
        "IsService": False,
        "Config": _config(config),
        "HostConfig": _host_config(config, caps, state),
    }


_KINDS: dict[str, Callable[[Engine, str, bool], dict[str, Any]]] = {
    "container": container, "image": _image, "volume": _volume,
}  # fmt: skip


def _existing(path: str) -> str:
    return path if os.path.exists(path) else ""


def _driver(config: ContainerConfig, state: ContainerState) -> str:
    return config.get("driver") or str(state.get("driver") or "")


def _state(engine: Engine, config: ContainerConfig, state: ContainerState) -> dict[str, Any]:
    status = state.get("status", "created")
    alive = status in containers.MONITORED
    return {
        "OciVersion": _OCI_VERSION,
        "Status": status,
        "Running": status in ("running", "stopping"),
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": state.get("oom_killed", False),
        "Dead": False,
        "Pid": state.get("pid", 0) if alive else 0,
        "ConmonPid": state.get("monitor_pid", 0) if alive else 0,
        "ExitCode": state.get("exit_code", 0),
        "Error": state.get("error", ""),
        "StartedAt": state.get("started") or NEVER_TEXT,
        "FinishedAt": state.get("finished") or NEVER_TEXT,
        "Health": _health(engine, config),
        "CgroupPath": state.get("cgroup", "").removeprefix("/sys/fs/cgroup") if alive else "",
        "CheckpointedAt": NEVER_TEXT,
        "RestoredAt": NEVER_TEXT,
        "StoppedByUser": state.get("stopped_by_user", False),
    }


def _health(engine: Engine, config: ContainerConfig) -> dict[str, Any]:
    if "health" not in config:
        return {"Status": "", "FailingStreak": 0, "Log": None}
    from rl.engine import healthcheck

    return healthcheck.state_document(engine.paths, config)


def _image_digest(engine: Engine, config: ContainerConfig) -> str:
    """The digest of the image's manifest, while the image is still there."""
    if not config.get("image"):
        return ""
    from rl.image import store

    try:
        record = store.find(engine.paths, config["image"])
    except RlError:
        return ""
    return record["manifest"] if record["id"] == config.get("image_id") else ""


def _capabilities(config: ContainerConfig) -> tuple[list[str], list[str]]:
    """(bounding, effective): as rl.engine.oci.process_capabilities gives them, by the user that was asked for."""
    from rl.engine.spec.security import capabilities

    bounding, added = capabilities(
        config.get("cap_add", []), config.get("cap_drop", []), config.get("privileged", False)
    )
    root = config.get("user", "").partition(":")[0] in ("", "0", "root")
    return sorted(bounding), sorted(bounding if root else set(added).intersection(bounding))


def _below(engine: Engine, config: ContainerConfig, state: ContainerState) -> list[str]:
    from rl.engine import rootfs

    try:
        return rootfs.lower_directories(engine.paths, config, state.get("driver", ""))
    except NotFoundError:  # a layer is gone: everything else can be told all the same
        return []


def _graph(engine: Engine, config: ContainerConfig, state: ContainerState) -> dict[str, str]:
    directory = engine.paths.container(config["id"])
    if config.get("rootfs"):
        return {}
    data = {"LowerDir": ":".join(_below(engine, config, state))}
    if state.get("status") in containers.LIVE:
        data["MergedDir"] = f"{directory}/rootfs"
    data["UpperDir"] = f"{directory}/upper"
    data["WorkDir"] = f"{directory}/work"
    return data


_PROPAGATION = ("shared", "slave", "private", "rshared", "rslave", "rprivate", "unbindable", "runbindable")


def _own_options(spec: MountSpec) -> list[str]:
    """What was asked for that is no option of the mount itself, in the words of -v and --mount."""
    found = ["O"] if spec.get("overlay") else []
    values = (("upperdir", spec.get("upper")), ("workdir", spec.get("work")), ("subpath", spec.get("subpath")))
    found += [f"{word}={value}" for word, value in values if value]
    return [*found, "idmap"] if "id_map" in spec else found


def _mount(engine: Engine, spec: MountSpec) -> dict[str, Any]:
    options = [*spec.get("options", []), *_own_options(spec)]
    volume = spec.get("type") == "volume"
    source = spec.get("source", "")
    entry: dict[str, Any] = {"Type": spec.get("type", "bind")}
    if volume:
        entry["Name"] = source
        source = f"{engine.paths.volumes}/{source}/_data"
    entry.update(
        Source=source, Destination=spec.get("destination", ""), Driver="local" if volume else "", Mode="",
        Options=[option for option in options if option not in ("ro", "rw", *_PROPAGATION)], RW="ro" not in options,
        Propagation=next((option for option in options if option in _PROPAGATION), "rprivate"),
    )
    return entry


def port_bindings(ports: list[PortMapping]) -> dict[str, list[dict[str, str]]]:
    """``80/tcp`` → [{HostIp, HostPort}], ranges taken apart."""
    found: dict[str, list[dict[str, str]]] = {}
    for mapping in ports:
        for at in range(mapping.get("range", 1) or 1):
            key = f"{mapping['container_port'] + at}/{mapping['protocol']}"
            host = {"HostIp": mapping.get("host_ip", ""), "HostPort": str(mapping["host_port"] + at)}
            found.setdefault(key, []).append(host)
    return found


def _network(config: ContainerConfig, state: ContainerState) -> dict[str, Any]:
    network = state.get("network", {}) if state.get("status") in containers.LIVE else {}
    ports: dict[str, Any] = dict(port_bindings(config.get("network", {}).get("ports", [])))
    for exposed in (config.get("image_config", {}).get("ExposedPorts") or {}):
        ports.setdefault(exposed if "/" in exposed else f"{exposed}/tcp", None)
    pid = state.get("pid", 0)
    return {
        "EndpointID": "",
        "Gateway": network.get("gateway", ""),
        "IPAddress": network.get("ip", ""),
        "IPPrefixLen": network.get("prefix", 0),
        "IPv6Gateway": network.get("ipv6_gateway", ""),
        "GlobalIPv6Address": network.get("ipv6", ""),
        "GlobalIPv6PrefixLen": network.get("ipv6_prefix", 0),
        "MacAddress": network.get("mac", ""),
        "Bridge": "",
        "SandboxID": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports,
        "SandboxKey": f"/proc/{pid}/ns/net" if network and pid else "",
        "Networks": {},
    }


def _config(config: ContainerConfig) -> dict[str, Any]:
    options, image = config.get("options", {}), config.get("image_config", {})
    attached = [stream.lower() for stream in options.get("attach", [])]
    document: dict[str, Any] = {
        "Hostname": config.get("hostname", ""),
        "Domainname": "",
        "User": config.get("user", ""),
        "AttachStdin": "stdin" in attached,
        "AttachStdout": "stdout" in attached,
        "AttachStderr": "stderr" in attached,
        "Tty": config.get("terminal", False),
        "OpenStdin": config.get("stdin_open", False),
        "StdinOnce": False,
        "Env": config.get("env", []),
        "Cmd": config.get("arguments", []),
        "Image": config.get("image", ""),
        "Volumes": image.get("Volumes"),
        "WorkingDir": config.get("workdir", ""),
        "Entrypoint": config.get("entrypoint") or None,
        "OnBuild": image.get("OnBuild"),
        "Labels": config.get("labels") or {},
        "Annotations": config.get("annotations") or {},
        "StopSignal": signal_name(config.get("stop_signal", 15)),
        "StopTimeout": config.get("stop_timeout", 10),
        "CreateCommand": config.get("create_command") or [],
        "Umask": config.get("umask", "0022"),
        "Timeout": int(options.get("timeout", 0)),
        "Passwd": options.get("passwd", True),
        "sdNotifyMode": options.get("sdnotify", "container"),
        "HealthcheckOnFailureAction": "none",
        "ExposedPorts": image.get("ExposedPorts") or {},
    }
    if "health" in config:
        from rl.engine import healthcheck

        document.update(healthcheck.config_document(config))
    if config.get("timezone"):
        document["Timezone"] = config["timezone"]
    if config.get("systemd"):
        document["SystemdMode"] = True
    if options.get("chrootdirs"):
        document["ChrootDirs"] = options["chrootdirs"]
    shown = [use for use in config.get("secrets", []) if use["type"] == "mount"]
    if shown:
        document["Secrets"] = [
            {"Name": use["name"], "ID": use["id"], "UID": use["uid"], "GID": use["gid"], "Mode": use["mode"]}
            for use in shown
        ]
    return document


#: Podman's key, OCI's key, what a device's value is called
_BLOCK_LIMITS = (
    ("BlkioWeightDevice", "weightDevice", "weight"), ("BlkioDeviceReadBps", "throttleReadBpsDevice", "rate"),
    ("BlkioDeviceWriteBps", "throttleWriteBpsDevice", "rate"),
    ("BlkioDeviceReadIOps", "throttleReadIOPSDevice", "rate"),
    ("BlkioDeviceWriteIOps", "throttleWriteIOPSDevice", "rate"),
)  # fmt: skip


def _device_limits(entries: list[dict[str, int]] | None, key: str) -> list[dict[str, Any]] | None:
    """Limits of devices, which the record knows by number; the kernel tells their names."""
    if not entries:
        return None
    found = []
    for entry in entries:
        number = f"{entry['major']}:{entry['minor']}"
        try:
            path = "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{number}"))
        except OSError:
            path = number
        found.append({"Path": path, key.capitalize(): entry[key]})
    return found


def _host_config(config: ContainerConfig, caps: list[str], state: ContainerState) -> dict[str, Any]:
    options, log = config.get("options", {}), config.get("log", {})
    request = config.get("network", {})
    restart = config.get("restart") or containers.NO_RESTART
    return {
        "Binds": [_bind(spec) for spec in config.get("mounts", []) if spec.get("type") in ("bind", "volume")],
        "CgroupManager": state.get("cgroup_manager") or "cgroupfs",
        "CgroupMode": config.get("cgroupns_mode", "private"),
        "ContainerIDFile": options.get("cidfile", ""),
        "LogConfig": {
            "Type": log.get("driver", "k8s-file"), "Config": None, "Path": log.get("path", ""),
            "Tag": log.get("tag", ""), "Size": human_size(log.get("max_size", 0)),
        },
        "NetworkMode": state.get("network", {}).get("mode") or request.get("mode", "default"),
        "PortBindings": port_bindings(request.get("ports", [])),
        "RestartPolicy": {"Name": restart["policy"], "MaximumRetryCount": restart["retries"]},
        "AutoRemove": config.get("remove", False),
        "Annotations": config.get("annotations") or {},
        "VolumeDriver": "",
        "VolumesFrom": None,
        "CapAdd": sorted(set(caps) - set(_default_capabilities())),
        "CapDrop": sorted(set(_default_capabilities()) - set(caps)),
        "Dns": request.get("dns", []),
        "DnsOptions": request.get("dns_options", []),
        "DnsSearch": request.get("dns_search", []),
        "ExtraHosts": request.get("add_hosts", []),
        "GroupAdd": config.get("group_add", []),
        "IpcMode": config.get("ipc_mode", "private"),
        "Cgroup": "",
        "Cgroups": {"enabled": "default"}.get(options.get("cgroups", "enabled"), options.get("cgroups")),
        "Links": None,
        "OomScoreAdj": options.get("oom_score_adj", 0),
        "PidMode": config.get("pid_mode", "private"),
        "Privileged": config.get("privileged", False),
        "PublishAllPorts": bool(options.get("publish_all")),
        "ReadonlyRootfs": config.get("read_only", False),
        "SecurityOpt": config.get("security_opt", []),
        "Tmpfs": {spec["destination"]: ",".join(spec.get("options", []))
                  for spec in config.get("mounts", []) if spec.get("type") == "tmpfs"},
        "UTSMode": config.get("uts_mode", "private"),
        "UsernsMode": config.get("userns", ""),
        "IDMappings": _id_mappings(config),
        "ShmSize": config.get("shm_size", 0),
        "Runtime": "oci",
        "ConsoleSize": [0, 0],
        "Isolation": "",
        **_resources(config),
    }


def _resources(config: ContainerConfig) -> dict[str, Any]:
    """The second half of HostConfig: what the container may use."""
    limits = config.get("limits", {})
    memory, cpu, block = limits.get("memory") or {}, limits.get("cpu") or {}, limits.get("blockIO") or {}
    return {
        "CpuShares": cpu.get("shares", 0),
        "Memory": memory.get("limit", 0),
        "NanoCpus": _nano_cpus(cpu),
        "CgroupParent": config.get("options", {}).get("cgroup_parent", ""),
        "BlkioWeight": block.get("weight", 0),
        **{name: _device_limits(block.get(key), rate) for name, key, rate in _BLOCK_LIMITS},
        "CpuPeriod": cpu.get("period", 0),
        "CpuQuota": cpu.get("quota", 0),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": cpu.get("cpus", ""),
        "CpusetMems": cpu.get("mems", ""),
        "Devices": [
            *(_device(text) for text in config.get("devices", [])),
            *({"PathOnHost": name, "PathInContainer": "", "CgroupPermissions": ""}
              for name in config.get("cdi_devices", [])),
        ],
        "DiskQuota": 0,
        "KernelMemory": 0,
        "MemoryReservation": memory.get("reservation", 0),
        "MemorySwap": memory.get("swap", 0),
        "MemorySwappiness": 0,
        "OomKillDisable": False,
        "Init": config.get("init", False),
        "PidsLimit": (limits.get("pids") or {}).get("limit", 0),
        "Ulimits": _ulimits(config),
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "CgroupConf": limits.get("unified"),
    }


def _nano_cpus(cpu: dict[str, Any]) -> int:
    quota: int = max(0, cpu.get("quota", 0))
    period: int = cpu.get("period") or 100_000
    return quota * 10**9 // period


def _default_capabilities() -> tuple[str, ...]:
    from rl.engine.spec.security import DEFAULT_CAPABILITIES

    return tuple(DEFAULT_CAPABILITIES)


def _bind(spec: MountSpec) -> str:
    """The mount in the form of ``-v``."""
    options = [*spec.get("options", []), *_own_options(spec)]
    mode = "ro" if "ro" in options else "rw"
    rest = [option for option in options if option not in ("ro", "rw")]
    if not any(option in _PROPAGATION for option in rest):
        rest.insert(0, "rprivate")
    return f"{spec.get('source', '')}:{spec.get('destination', '')}:{','.join([mode, *rest])}"


def _id_mappings(config: ContainerConfig) -> dict[str, list[str]]:
    return {
        key: [":".join(str(number) for number in line) for line in config.get(name, [])]  # type: ignore[attr-defined]
        for key, name in (("UidMap", "uid_map"), ("GidMap", "gid_map"))
    }


def _device(text: str) -> dict[str, str]:
    from rl.engine.spec.security import device

    host, inside, access = device(text)
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access}


def _ulimits(config: ContainerConfig) -> list[dict[str, Any]]:
    from rl.engine.spec.security import ulimits

    found = ulimits(config.get("ulimits", []))
    return [{"Name": entry["type"], "Soft": entry["soft"], "Hard": entry["hard"]} for entry in found]

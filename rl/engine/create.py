"""rl create: from flags and an image to a container's record; nothing runs yet.

`rl run` walks the same functions: :func:`plan` decides everything that can be decided without touching
the container's files, :func:`rl.engine.recording.record` makes it a container, which takes its name.
"""

from __future__ import annotations

import os
import sys

from rl.config import containersconf
from rl.engine import cgroups, containers, namespaces, naming, recording
from rl.engine.spec import accounts, environment, limits, logs, mounts, restart, security, systemd, values
from rl.errors import NotFoundError, RlError, UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ContainerConfig, ImageRecord, NetworkRequest
    from rl.config.paths import Paths
    from rl.engine.context import Engine

def create(engine: Engine, image: str, command: list[str], options: dict[str, Any]) -> str:
    """Make a container and return its id. Pulls the image if it is missing and --pull allows."""
    container_id = os.urandom(32).hex()
    config = plan(engine, container_id, image, command, options)
    recording.record(engine, config, options)
    return container_id


def resolve_image(engine: Engine, image: str, options: dict[str, Any]) -> tuple[ImageRecord, dict[str, Any]]:
    """The image's record and configuration; pulled first if it must be."""
    from rl.engine.pull import ensure_image
    from rl.image import store

    found = ensure_image(engine, image, policy=options.get("pull", "missing"), **_pull_options(options))
    return found, store.config(engine.paths, found)


_PULL_FLAGS = ("platform", "arch", "os", "variant", "tls_verify", "authfile", "creds", "cert_dir", "quiet", "retry")


def _pull_options(options: dict[str, Any]) -> dict[str, Any]:
    found = {name: options[name] for name in _PULL_FLAGS if name in options}
    if "retry_delay" in options:
        from rl.engine.times import duration_ns

        found["retry_delay"] = duration_ns(options["retry_delay"]) / 1e9
    return found


def _without_password(words: list[str]) -> list[str]:
    """The command line for the record: what --creds says is for the pull alone."""
    hidden, follows = [], False
    for word in words:
        if follows:
            word = "***"
        follows = word == "--creds"
        hidden.append("--creds=***" if word.startswith("--creds=") else word)
    return hidden


def plan(
    engine: Engine, container_id: str, image: str, command: list[str], options: dict[str, Any]
) -> ContainerConfig:
    """Everything `config.json` holds, resolved against the image and this host; writes nothing."""
    modes = containersconf.load(engine.paths.run)
    if not options.get("cgroups") and modes.get("containers.cgroups", "enabled") != "enabled":
        options = {**options, "cgroups": modes["containers.cgroups"]}
    overlay = False
    if options.get("rootfs"):
        found = None
        document: dict[str, Any] = {}
        root, overlay = _root_directory(image)
    else:
        found, document = resolve_image(engine, image, options)
        root = ""
    image_config: dict[str, Any] = document.get("config") or {}
    config = _begun(engine, container_id, options, image_config)
    if found:
        config["image"], config["image_id"], config["layers"] = found["name"], found["id"], found["layers"]
    config["rootfs"], config["rootfs_overlay"] = root, overlay
    return _filled(engine, config, command, options)


def template(engine: Engine, options: dict[str, Any]) -> ContainerConfig:
    """What flags say of processes that belong to no container: those of a build. Raises as :func:`plan`."""
    config = _begun(engine, os.urandom(32).hex(), options, {})
    return _filled(engine, config, ["true"], options)


def _begun(
    engine: Engine, container_id: str, options: dict[str, Any], image_config: dict[str, Any]
) -> ContainerConfig:
    return {
        "id": container_id,
        "name": options.get("name") or "",
        "created": containers.now(),
        "image": "",
        "image_id": "",
        "rootfs": "",
        "rootfs_overlay": False,
        "layers": [],
        "driver": engine.options.get("storage_driver", ""),
        "create_command": ["rl", *_without_password(sys.argv[1:])],
        "image_config": image_config,
        "options": {key: value for key, value in options.items() if not key.startswith("_") and key != "creds"},
        "runtime": engine.options.get("runtime") or "rl",
        "remove": bool(options.get("rm")),
    }


def _filled(
    engine: Engine, config: ContainerConfig, command: list[str], options: dict[str, Any]
) -> ContainerConfig:
    options = {**options, "_command": command}
    for fill in (_process, _identity, namespaces.fill, _network, _filesystem, _secrets, _security,
                 _supervision):
        fill(engine, config, options)
    return config


def _root_directory(text: str) -> tuple[str, bool]:
    """(directory, whether it stays as it is) of --rootfs DIR[:O]."""
    path, colon, flag = text.rpartition(":")
    if not colon or os.path.isdir(text):
        path, flag = text, ""
    if flag.startswith("idmap"):
        raise UnsupportedError(
            f"--rootfs {text}: the kernel maps the ids of root's file systems for root only (mount_setattr(2))",
            f"use {path}:O with --userns=host",
        )
    if flag not in ("", "O"):
        raise UsageError(f"--rootfs {text!r}: {flag!r} is not an option", "write DIR, or DIR:O")
    root = os.path.abspath(path)
    if not os.path.isdir(root):
        raise NotFoundError(f"--rootfs {path}: no such directory")
    return root, flag == "O"


def _process(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """Command, environment, working directory, user, terminal."""
    image = config["image_config"]
    entrypoint = list(image.get("Entrypoint") or [])
    arguments = list(options.get("_command") or []) or None
    if "entrypoint" in options:
        entrypoint = _entrypoint(options["entrypoint"])
        arguments = arguments or []  # an entry point of one's own drops the image's CMD
    elif arguments is None:
        arguments = list(image.get("Cmd") or [])
    command = entrypoint + arguments
    if not command:
        if not config["rootfs"]:
            raise RlError(
                f"image {config['image']} names no command and none was given", "add a command: rl run IMAGE COMMAND"
            )
        command = ["sh"]
    config["entrypoint"], config["arguments"], config["command"] = entrypoint, arguments, command
    config["systemd"] = systemd.wanted(options, command)
    config["env"] = environment.environment(options, list(image.get("Env") or []))
    if config["systemd"]:
        config["env"] += systemd.variables(config["id"])
    config["workdir"] = options.get("workdir") or image.get("WorkingDir") or "/"
    if not config["workdir"].startswith("/"):
        raise UsageError(f"--workdir {config['workdir']!r} must be an absolute path in the container")
    config["user"] = options["user"] if "user" in options else image.get("User") or ""
    accounts.check(options)
    config["group_add"] = list(options.get("group_add", []))
    config["host_users"] = accounts.host_users(options.get("hostuser", []))
    config["terminal"] = bool(options.get("tty"))
    config["stdin_open"] = bool(options.get("interactive"))
    config["umask"] = _umask(options.get("umask", "0022"))
    if "oom_score_adj" in options:
        values.integer(options["oom_score_adj"], "--oom-score-adj", -1000, 1000)
    config["timezone"] = options.get("tz", "")
    if config["timezone"]:
        _check_timezone(config["timezone"])


def _entrypoint(value: str) -> list[str]:
    """``--entrypoint``: a JSON array, or one command; empty removes the image's."""
    if value.startswith("["):
        from rl.config.jsonio import loads

        try:
            parsed = loads(value)
        except ValueError:
            parsed = None
        if not isinstance(parsed, list) or not all(isinstance(item, str) for item in parsed):
            raise UsageError(f"--entrypoint {value!r} is not a JSON array of strings", 'write \'["cmd", "argument"]\'')
        return parsed
    return [value] if value else []


def _umask(text: str) -> str:
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise UsageError(f"--umask {text!r} is not an octal mask", "write 0000 to 0777")
    return f"{value:04o}"


def _check_timezone(name: str) -> None:
    if name != "local" and (name.startswith("/") or ".." in name or not os.path.isfile(f"/usr/share/zoneinfo/{name}")):
        raise UsageError(f"--tz {name!r} is not a time zone of this host", "names are those below /usr/share/zoneinfo")


def _identity(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """Name, labels, annotations."""
    if config["name"]:
        naming.check_name(config["name"])
    labels = dict(config["image_config"].get("Labels") or {})
    labels.update(values.pairs(values.label_files(options.get("label_file", []), "--label-file"), "--label-file"))
    labels.update(values.pairs(options.get("label", []), "--label"))
    config["labels"] = labels
    config["annotations"] = values.pairs(options.get("annotation", []), "--annotation", strict=True)
    if options.get("requires"):
        from rl.engine import dependencies

        config["requires"] = dependencies.requires(engine.paths, options["requires"])


def _network(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """--network, -p, -P, --dns…, --add-host; `container:` is resolved to an id."""
    from rl.network import files, ports
    from rl.network.flag import check_mac, parse_network_flag

    given = options.get("network") or []
    request: NetworkRequest = parse_network_flag([given] if isinstance(given, str) else list(given))
    mode = request.get("mode", "default")
    if mode.startswith("container:"):
        request["mode"] = f"container:{containers.find(engine.paths, mode.partition(':')[2])}"
    exposed = [*(config["image_config"].get("ExposedPorts") or {}), *options.get("expose", [])]
    ports.parse_expose(exposed)
    request["ports"] = ports.parse_publish(
        options.get("publish", []), exposed, publish_all=bool(options.get("publish_all"))
    )
    if request["ports"] and (mode in ("none",) or mode.startswith(("container:", "ns:"))):
        raise UsageError(f"published ports cannot be used with --network={mode}", "use the default network")
    files.check_dns(options.get("dns", []))
    for value in options.get("add_host", []):
        files.parse_add_host(value)
    for flag, key in (("dns", "dns"), ("dns_search", "dns_search"), ("dns_option", "dns_options"),
                      ("add_host", "add_hosts")):
        request[key] = list(options.get(flag, []))  # type: ignore[literal-required]
    request["no_hosts"] = bool(options.get("no_hosts"))
    request["no_hostname"] = bool(options.get("no_hostname"))
    request["hosts_file"] = _hosts_file(options)
    request["mac"] = options.get("mac_address", "")
    if request["mac"]:
        check_mac(request["mac"], mode)
    config["network"] = request


def _hosts_file(options: dict[str, Any]) -> str:
    """--hosts-file: what /etc/hosts is made from; "" leaves that to containers.conf."""
    given: str = options.get("hosts_file", "")
    if options.get("no_hosts") and (given or options.get("add_host")):
        other = "--hosts-file" if given else "--add-host"
        raise UsageError(f"--no-hosts and {other} cannot be set together", "use one of them")
    if given in ("", "image", "none"):
        return given
    path = os.path.abspath(given)
    if not os.path.isfile(path):
        raise NotFoundError(f"--hosts-file {given}: no such file", "name a file, image or none")
    return path


def _filesystem(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """Mounts, tmpfs, devices, /dev/shm, read-only root."""
    image_volumes = list(config["image_config"].get("Volumes") or {})
    if options.get("volumes_from") or options.get("volume_driver"):
        from rl.engine.spec import volumes_from

        config["mounts"] = volumes_from.mounts(engine.paths, options, image_volumes)
    else:
        config["mounts"] = mounts.mounts(options, image_volumes)
    for spec in config["mounts"]:
        if spec.get("anonymous") and not spec.get("borrowed"):
            spec["source"] = os.urandom(32).hex()
        elif spec.get("id_map") == {} and not config["uid_map"]:
            raise UsageError(
                f"mount on {spec['destination']}: idmap: the container has no user namespace of its own to map to",
                "add --userns=keep-id, nomap or auto, or write the mapping: idmap=uids=0-1000-1;gids=0-1000-1",
            )
        elif spec["type"] == "image":
            found, _ = resolve_image(engine, spec["source"], options)
            spec["image_id"], spec["layers"] = found["id"], found["layers"]
    config["read_only"] = bool(options.get("read_only"))
    config["read_only_tmpfs"] = options.get("read_only_tmpfs", True)
    for directory in options.get("chrootdirs", []):
        if not directory.startswith("/") or os.path.normpath(directory).strip("/") == "":
            raise UsageError(f"--chrootdirs: {directory!r} must be an absolute path in the container, and not /")
    config["shm_size"] = values.size(options.get("shm_size", "65536k"), "--shm-size")
    _cdi_devices(engine, config, options)
    for item in config["devices"]:
        security.check_device(item)
    config["init"] = bool(options.get("init"))
    if config["init"]:
        config["options"]["init_path"] = _find_init(options)


def _cdi_devices(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """--device and --gpus: nodes of the host, and devices that a specification of their vendor describes."""
    given = options.get("device", [])
    config["cdi_devices"] = []
    config["devices"] = [item for item in given if item.startswith("/") or "=" not in item]
    if len(config["devices"]) == len(given) and not options.get("gpus"):
        return
    from rl.engine.spec import cdi

    config["devices"] = [item for item in given if not cdi.is_name(item)]
    config["cdi_devices"] = [item for item in given if cdi.is_name(item)] + cdi.gpus(options.get("gpus", []))
    config["cdi_directories"] = containersconf.load(engine.paths.run).get("engine.cdi_spec_dirs") or [*cdi.DIRECTORIES]
    cdi.resolve(config["cdi_devices"], config["cdi_directories"])


def _secrets(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """--secret: which, and where they are to be seen; the data is copied when the container is recorded."""
    config["secrets"] = []
    if options.get("secret"):
        from rl.engine import container_secrets

        config["secrets"] = container_secrets.wanted(engine, config["mounts"], options["secret"])


_INITS = ("/usr/libexec/podman/catatonit", "/usr/libexec/catatonit/catatonit", "/usr/bin/catatonit",
          "/usr/bin/tini-static", "/usr/bin/dumb-init", "/usr/bin/docker-init",
          "/usr/libexec/docker/docker-init", "/sbin/tini")


def _find_init(options: dict[str, Any]) -> str:
    given: str = options.get("init_path", "")
    for path in (given,) if given else _INITS:
        if os.access(path, os.X_OK):
            return path
    raise NotFoundError(
        f"--init: {given or 'no init program'} not found on this host", "install one: apt-get install catatonit"
    )


def _security(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """Checks what can be wrong now; the OCI specification is made of it at start."""
    config["cap_add"], config["cap_drop"] = list(options.get("cap_add", [])), list(options.get("cap_drop", []))
    config["privileged"] = bool(options.get("privileged"))
    security.capabilities(config["cap_add"], config["cap_drop"], config["privileged"])
    config["security_opt"] = list(options.get("security_opt", []))
    chosen = security.security_options(config["security_opt"])
    if chosen.seccomp not in ("", "unconfined") and not os.path.isfile(chosen.seccomp):
        raise NotFoundError(f"--security-opt seccomp={chosen.seccomp}: no such file")
    config["ulimits"] = list(options.get("ulimit", []))
    security.ulimits(config["ulimits"])
    config["sysctl"] = values.pairs(options.get("sysctl", []), "--sysctl", strict=True)
    security.check_sysctls(config["sysctl"], config["network"].get("mode", ""), config["ipc_mode"])
    config["limits"] = limits.resources(options)
    cgroups.check(options)


def _supervision(engine: Engine, config: ContainerConfig, options: dict[str, Any]) -> None:
    """Stop signal and timeout, restart policy, log, detach keys."""
    from rl.config.signals import parse_signal

    image = config["image_config"]
    usual = systemd.STOP_SIGNAL if config["systemd"] else "TERM"
    config["stop_signal"] = parse_signal(options.get("stop_signal") or image.get("StopSignal") or usual)
    config["stop_timeout"] = values.integer(options.get("stop_timeout", 10), "--stop-timeout", 0)
    config["restart"] = restart.policy(options.get("restart", ""), config["remove"])
    notify = options.get("sdnotify", "container")
    if notify not in ("container", "conmon", "healthy", "ignore"):
        what = f'invalid sdnotify value "{notify}"'
        raise UsageError(what, "it must be container, conmon, healthy or ignore")
    for flag in ("pidfile", "conmon_pidfile"):
        if options.get(flag):  # it may be written again, by a monitor, which is elsewhere
            config["options"][flag] = os.path.abspath(options[flag])
    if "detach_keys" in options:
        from rl.engine.launching import checked_keys

        config["detach_keys"] = checked_keys(options["detach_keys"])
    else:
        config["detach_keys"] = detach_keys(engine.paths)
    file = f"{engine.paths.container(config['id'])}/ctr.log"
    config["log"] = logs.log_config(file, options, containersconf.load(engine.paths.run))
    if image.get("Healthcheck") or any("health" in key for key in options):
        from rl.engine.spec.health import health

        checks = health(options, image)
        if checks:
            config["health"] = checks
    if notify == "healthy" and config.get("health", {}).get("test", ["NONE"]) == ["NONE"]:
        raise UsageError('sdnotify policy "healthy" requires a healthcheck to be set', "add --health-cmd")


def detach_keys(paths: Paths) -> str:
    """The keys that detach where no flag says: as containers.conf has them."""
    found: str = containersconf.load(paths.run).get("engine.detach_keys", "ctrl-p,ctrl-q")
    return found

"""--device VENDOR/CLASS=NAME and --gpus: devices by the Container Device Interface.

Vendors describe in JSON or YAML files what a container needs for a device of theirs: nodes, mounts, variables, hooks.
Source: https://github.com/cncf-tags/container-device-interface, SPEC.md 1.1; containers.conf(5), cdi_spec_dirs.
"""

from __future__ import annotations

import os

from rl.errors import NotFoundError, RlError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

#: The later counts for a device that both know (SPEC.md, "CDI JSON Specification").
DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:")
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_NOT_OURS = ("intelRdt", "netDevices")  # what rl's runtime cannot do for an ordinary user


def is_name(text: str) -> bool:
    """Whether *text* names a device of CDI and not a path: ``nvidia.com/gpu=0``."""
    kind, equals, name = text.partition("=")
    vendor, slash, device_class = kind.partition("/")
    words = (vendor, device_class, name)
    return bool(equals and slash) and all(word and _WORD.issuperset(word) and word[0].isalnum() for word in words)


def gpus(values: Sequence[str]) -> list[str]:
    """The devices of --gpus: ``all``, or numbers and names."""
    return [f"nvidia.com/gpu={value}" for value in values]


class Edits:
    """What a container gets for its devices, in the order of their names."""

    __slots__ = ("env", "gids", "hooks", "mounts", "nodes")

    def __init__(self) -> None:
        self.env: list[str] = []
        self.gids: list[int] = []
        self.nodes: list[tuple[str, str]] = []  # (path on the host, in the container)
        self.mounts: list[dict[str, Any]] = []  # of the OCI specification
        self.hooks: dict[str, list[dict[str, Any]]] = {}

    def add(self, edits: dict[str, Any], what: str) -> None:
        """Take over one ``containerEdits``. Raises UnsupportedError, NotFoundError, KeyError for what is missing."""
        for key in _NOT_OURS:
            if edits.get(key):
                raise UnsupportedError(f"CDI device {what} wants {key}, which rl cannot give a container")
        self.env += edits.get("env") or []
        self.gids += [gid for gid in edits.get("additionalGids") or [] if gid]
        for node in edits.get("deviceNodes") or []:
            host = node.get("hostPath") or node["path"]
            if not os.path.exists(host):
                raise NotFoundError(f"CDI device {what}: {host}: no such device", "is the driver of the device loaded?")
            self.nodes.append((host, node["path"]))
        for mount in edits.get("mounts") or []:
            options = list(mount.get("options") or [])
            if mount.get("type", "bind") in ("", "bind", "none") and not {"bind", "rbind"} & set(options):
                options.insert(0, "rbind")
            kind, source, target = mount.get("type") or "bind", mount["hostPath"], mount["containerPath"]
            self.mounts.append({"destination": target, "source": source, "type": kind, "options": options})
        for hook in edits.get("hooks") or []:
            kind = hook["hookName"]
            if kind not in _HOOKS:
                raise UnsupportedError(f"CDI device {what}: there is no hook {kind!r}", "correct its specification")
            entry = {"path": hook["path"], **{key: hook[key] for key in ("args", "env", "timeout") if hook.get(key)}}
            self.hooks.setdefault(kind, []).append(entry)

    def apply(self, spec: dict[str, Any]) -> None:
        """Put it all into the OCI specification *spec*."""
        process = spec["process"]
        process["env"] = [*process["env"], *self.env]  # the last of a name counts
        known = process["user"].get("additionalGids") or []
        process["user"]["additionalGids"] = known + [gid for gid in self.gids if gid not in known]
        for host, path in dict.fromkeys(self.nodes):
            options = ["bind", "rprivate", "nosuid", "noexec"]
            self.mounts.append({"destination": path, "type": "bind", "source": host, "options": options})
        spec["mounts"] += self.mounts
        for kind, hooks in self.hooks.items():
            spec.setdefault("hooks", {}).setdefault(kind, []).extend(hooks)


def resolve(names: Sequence[str], directories: Sequence[str] = DIRECTORIES) -> Edits:
    """What the devices *names* bring.

    Raises NotFoundError for one that no specification has, UnsupportedError, RlError.
    """
    edits, broken = Edits(), []
    devices: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {}
    for path in _files(directories):
        try:
            document = _load(path)
            for device in document["devices"]:
                devices[f"{document['kind']}={device['name']}"] = (document, device, path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            broken.append(f"{path}: {error}")  # of another vendor, most likely: told only where a device is missing
    common: set[str] = set()
    for name in dict.fromkeys(names):
        if name not in devices:
            known = ", ".join(sorted(devices)) or "none"
            hint = f"there is no correct specification in {broken[0]}" if broken else (
                f"known in {' and '.join(directories)}: {known}; for Nvidia: nvidia-ctk cdi generate"
            )
            raise NotFoundError(f"unresolvable CDI devices {name}", hint)
        document, device, path = devices[name]
        try:
            edits.add(device.get("containerEdits") or {}, name)
            if path not in common:
                common.add(path)
                edits.add(document.get("containerEdits") or {}, name)
        except (KeyError, TypeError, AttributeError) as error:
            raise RlError(f"CDI device {name}: {path}: {error} is missing or wrong", "correct the file") from None
    return edits


def _files(directories: Sequence[str]) -> Iterator[str]:
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            if name.endswith((".json", ".yaml", ".yml")):
                yield f"{directory}/{name}"


def _load(path: str) -> dict[str, Any]:
    """The document in *path*. Raises OSError, ValueError."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".json"):
        from rl.config.jsonio import loads

        found = loads(text)
    else:
        import yaml

        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error).replace("\n", " ")) from None
    version = str(found.get("cdiVersion", ""))
    if version.split(".")[0] not in ("0", "1"):
        raise ValueError(f"its cdiVersion is {version!r}")
    return dict(found)

"""--mount: type=bind|volume|tmpfs|ramfs|devpts|image|glob and the options of each (podman-run(1))."""

from __future__ import annotations

import os

from rl.engine.spec import mounts, tmpfs
from rl.engine.spec.values import boolean, comma_list
from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import MountSpec

_ALIASES = {
    "src": "source", "target": "destination", "dst": "destination", "ro": "readonly", "tmpfs-size": "size",
    "tmpfs-mode": "mode", "u": "chown", "readwrite": "rw", "volume-subpath": "subpath", "image-subpath": "subpath",
    "volume-nocopy": "nocopy",
}
_SWITCHES = ("exec", "noexec", "dev", "nodev", "suid", "nosuid", "bind", "rbind", "rro", *mounts.PROPAGATION)
_REFUSED = {
    "artifact": ("OCI artifacts are not kept here", "save the artifact to a file and bind-mount that"),
    "npipe": ("named pipes of Windows do not exist on Linux", "use type=bind with a socket"),
    "cluster": ("there are no cluster volumes without Swarm", "use type=volume or type=bind"),
}
_TYPES = "bind, volume, tmpfs, ramfs, devpts, image, glob"


class _Fields:
    """The fields of one --mount, taken out as they are understood."""

    def __init__(self, text: str) -> None:
        self.flag = f"--mount {text}"
        self.values: dict[str, str] = {}
        self.volume_options: list[str] = []
        self.volume_labels: list[str] = []
        for item in comma_list(text):
            key, _, value = item.strip().partition("=")
            # U (chown) is a letter of its own, the keys are small: idmap, volume-opt, …
            key = _ALIASES.get(key.lower(), key.lower()) if key not in ("z", "Z", "O") else key
            if key == "volume-opt":
                self.volume_options.append(value)
            elif key == "volume-label":
                self.volume_labels.append(value)
            elif key in self.values:
                raise UsageError(f"{self.flag}: {key} is given twice")
            elif key:
                self.values[key] = value

    def take(self, key: str) -> str:
        """The value of *key*, "" if it was not given."""
        return self.values.pop(key, "")

    def switch(self, key: str) -> bool | None:
        """The boolean *key*, None if it was not given; without a value it is true."""
        return boolean(self.values.pop(key), f"{self.flag}: {key}") if key in self.values else None

    def destination(self) -> str:
        """Where in the container. Raises UsageError where that is not said."""
        if not self.values.get("destination"):
            raise UsageError(f"{self.flag} has no destination", "add destination=/path/in/container")
        return mounts.destination(self.take("destination"), "--mount")

    def finish(self, kind: str) -> None:
        """Raise UsageError for what nobody took."""
        for key, value in self.values.items():
            shown = f" with value {value!r}" if value else ""
            raise UsageError(f"{self.flag}: a {kind} has no option {key!r}{shown}")
        if self.volume_options or self.volume_labels:
            raise UsageError(f"{self.flag}: volume-opt and volume-label are for type=volume")


def parse_all(text: str) -> list[MountSpec]:
    """The mounts of one --mount. Raises UsageError, UnsupportedError."""
    fields = _Fields(text)
    kind = fields.take("type") or "volume"
    if kind in _REFUSED:
        reason, hint = _REFUSED[kind]
        raise UnsupportedError(f"{fields.flag}: type={kind}: {reason}", hint)
    maker = _MAKERS.get(kind)
    if maker is None:
        raise UsageError(f'{fields.flag}: invalid filesystem type "{kind}"', f"use type={_TYPES}")
    return maker(fields)


def _bind(fields: _Fields) -> list[MountSpec]:
    source = fields.take("source")
    if not source:
        raise UsageError(f"{fields.flag}: a bind mount needs source=/path/on/host")
    place, flags = fields.destination(), _flags(fields)
    links = bool(fields.switch("no-dereference"))
    fields.finish("bind mount")
    return [_linked(mounts.bind(source, place, flags, fields.flag), links)]


def _glob(fields: _Fields) -> list[MountSpec]:
    """All that matches, each below the destination by its own name, or without one at its own path."""
    import glob

    pattern = fields.take("source")
    if not pattern:
        raise UsageError(f"{fields.flag}: a glob needs source=/path/with/*")
    base = fields.destination() if fields.values.get("destination") else ""
    fields.values.pop("destination", None)
    flags = _flags(fields)
    links = bool(fields.switch("no-dereference"))
    fields.finish("glob")
    paths = sorted(os.path.abspath(path) for path in glob.glob(pattern))
    if not paths:
        raise UsageError(f"{fields.flag}: no file paths matching glob {pattern!r}", "the pattern is one of file names")
    found = []
    for path in paths:
        place = mounts.destination(f"{base}/{os.path.basename(path)}" if base else path, fields.flag)
        found.append(_linked(mounts.bind(path, place, list(flags), fields.flag), links))
    return found


def _linked(spec: MountSpec, links: bool) -> MountSpec:
    if links:
        spec["options"].append("copy-symlink")
    return spec


def _volume(fields: _Fields) -> list[MountSpec]:
    source, place = fields.take("source"), fields.destination()
    flags, subpath = _flags(fields), _subpath(fields)
    driver = fields.take("volume-driver")
    options, labels = fields.volume_options, fields.volume_labels
    fields.volume_options, fields.volume_labels = [], []
    fields.finish("volume")
    if driver not in ("", "local"):
        raise UnsupportedError(f"{fields.flag}: volume driver {driver!r} is not available", "only local is built in")
    if source:
        spec = mounts.volume(source, place, flags, fields.flag)
    else:
        spec = mounts.volume("anonymous", place, flags, fields.flag)
        spec["source"], spec["anonymous"] = "", True
    if options:
        spec["volume_options"] = _pairs(options, f"{fields.flag}: volume-opt")
    if labels:
        spec["volume_labels"] = _pairs(labels, f"{fields.flag}: volume-label")
    if subpath:
        spec["subpath"] = subpath
    return [spec]


def _pairs(items: list[str], flag: str) -> dict[str, str]:
    found = {}
    for item in items:
        key, _, value = item.partition("=")
        if not key:
            raise UsageError(f"{flag}: {item!r} has no key")
        found[key] = value
    return found


def _image(fields: _Fields) -> list[MountSpec]:
    source, place = fields.take("source"), fields.destination()
    if not source:
        raise UsageError(f"{fields.flag}: type=image needs source=IMAGE")
    writable, readonly = fields.switch("rw"), fields.switch("readonly")
    if writable and readonly:
        raise UsageError(f"{fields.flag}: readonly and rw exclude each other")
    subpath = _subpath(fields)
    if "idmap" in fields.values:
        raise UnsupportedError(
            f"{fields.flag}: idmap: an image's files get the container's owners by themselves", "leave it out"
        )
    options = [key for key in ("exec", "noexec", "dev", "nodev", "suid", "nosuid") if fields.switch(key)]
    fields.finish("image")
    mounts.check(options, fields.flag)
    spec: MountSpec = {"type": "image", "source": source, "destination": place, "options": options}
    if not writable:
        spec["options"].append("ro")
    if subpath:
        spec["subpath"] = subpath
    return [spec]


def _subpath(fields: _Fields) -> str:
    """A path below the root of a volume or an image; it is resolved there when it is mounted."""
    given = "subpath" in fields.values
    path = fields.take("subpath")
    if given and (not path.strip("/") or ".." in path.split("/")):
        raise UsageError(f"{fields.flag}: subpath {path!r} is not a path below the root", "write subpath=dir/file")
    return path.strip("/")


def _memory(kind: str, fields: _Fields) -> list[MountSpec]:
    if fields.values.pop("source", kind) not in (kind, "none"):
        raise UsageError(f"{fields.flag}: a {kind} has no source")
    place, options = fields.destination(), []
    for key, value in list(fields.values.items()):
        del fields.values[key]
        if key == "readonly":
            options += ["ro"] if boolean(value, f"{fields.flag}: readonly") else []
        elif key == "rw":
            options += ["rw"] if boolean(value, f"{fields.flag}: rw") else ["ro"]
        elif key == "chown":
            options += ["U"] if boolean(value, f"{fields.flag}: chown") else []
        else:
            options.append(f"{key}={value}" if value else key)
    fields.finish(kind)
    return [tmpfs.spec(kind, place, options, fields.flag)]


def _devpts(fields: _Fields) -> list[MountSpec]:
    fields.values.pop("source", "")
    place, rest = fields.destination(), dict(fields.values)
    fields.values.clear()
    fields.finish("devpts")
    return [tmpfs.devpts(place, rest, fields.flag)]


def _flags(fields: _Fields) -> list[str]:
    """The options of a bind mount or a volume as words of -v."""
    flags = [key for key in (*_SWITCHES, "copy", "nocopy", "z", "Z", "O") if fields.switch(key)]
    readonly, writable = fields.switch("readonly"), fields.switch("rw")
    if readonly is not None and writable is not None and readonly == writable:
        raise UsageError(f"{fields.flag}: readonly and rw exclude each other")
    flags += ["ro"] if readonly or writable is False else ["rw"] if writable else []
    if fields.switch("bind-nonrecursive"):
        flags.append("bind")
    if fields.switch("chown"):
        flags.append("U")
    propagation = fields.take("bind-propagation")
    if propagation:
        if propagation not in mounts.PROPAGATION:
            hint = f"use {', '.join(mounts.PROPAGATION)}"
            raise UsageError(f"{fields.flag}: bind-propagation {propagation!r} is not one", hint)
        flags.append(propagation)
    relabel = fields.take("relabel")
    if relabel:
        if relabel not in ("shared", "private"):
            raise UsageError(f"{fields.flag}: relabel {relabel!r} is not one", "use shared or private")
        flags.append("z" if relabel == "shared" else "Z")
    consistency = fields.take("consistency")
    if consistency not in ("", "default", "consistent", "cached", "delegated"):
        raise UsageError(f"{fields.flag}: consistency {consistency!r} is not one", "leave it out: it always is")
    for key in ("upperdir", "workdir"):
        value = fields.take(key)
        flags += [f"{key}={value}"] if value else []
    if "idmap" in fields.values:
        value = fields.take("idmap")
        if value.lower() not in ("false", "0", "no", "f"):
            flags.append("idmap" if value.lower() in ("", "true", "1", "yes", "t") else f"idmap={value}")
    return flags


def _tmpfs(fields: _Fields) -> list[MountSpec]:
    return _memory("tmpfs", fields)


def _ramfs(fields: _Fields) -> list[MountSpec]:
    return _memory("ramfs", fields)


_MAKERS: dict[str, Callable[[_Fields], list[MountSpec]]] = {
    "bind": _bind, "glob": _glob, "volume": _volume, "image": _image, "devpts": _devpts, "tmpfs": _tmpfs,
    "ramfs": _ramfs,
}

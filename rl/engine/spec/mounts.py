"""-v, --mount, --tmpfs: what is mounted into the container (podman-run(1)); see mount_flag and tmpfs, too."""

from __future__ import annotations

import os

from rl.engine.spec.values import is_name
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rl.config.model import MountSpec

PROPAGATION = ("shared", "slave", "private", "rshared", "rslave", "rprivate", "unbindable", "runbindable")
#: Options of which one at most may be given, and what Podman calls such a group.
_GROUPS = (
    (("rw", "ro", "rro"), "'rw' or 'ro'"), (("exec", "noexec"), "'noexec' or 'exec'"),
    (("dev", "nodev"), "'nodev' or 'dev'"), (("suid", "nosuid"), "'nosuid' or 'suid'"),
    (("copy", "nocopy"), "'[no]copy'"), (("bind", "rbind"), "'[r]bind'"), (("z", "Z", "O"), "'z', 'Z', or 'O'"),
    (PROPAGATION, "'[r]shared', '[r]private', '[r]slave' or '[r]unbindable'"),
)
#: Docker Desktop's words for how stale a mount may be; here it never is.
_CONSISTENCY = ("cached", "delegated", "consistent")
_KNOWN = frozenset(("U", *_CONSISTENCY, *(option for group, _ in _GROUPS for option in group)))
#: Options that the mount itself has; the others are ours, or say what is the default.
_OF_THE_MOUNT = frozenset(("ro", "rro", "exec", "noexec", "dev", "nodev", "suid", "nosuid", "U", *PROPAGATION))


def mounts(options: Mapping[str, Any], image_volumes: list[str]) -> list[MountSpec]:
    """All requested mounts, image volumes last; two on one destination are an error as in Podman."""
    found: list[MountSpec] = [parse_volume(text) for text in options.get("volume", [])]
    if options.get("mount"):
        from rl.engine.spec import mount_flag

        for text in options["mount"]:
            found += mount_flag.parse_all(text)
    if options.get("tmpfs"):
        found += [parse_tmpfs(text) for text in options["tmpfs"]]
    seen: set[str] = set()
    for spec in found:
        if spec["destination"] in seen:
            raise UsageError(f"{spec['destination']}: duplicate mount destination", "mount each directory once")
        seen.add(spec["destination"])
    mode = options.get("image_volume", "anonymous")
    for path in image_volumes:
        place = destination(path, "VOLUME of the image")
        if place in seen or mode == "ignore":
            continue
        seen.add(place)
        if mode == "tmpfs":
            found.append(parse_tmpfs(place))
        else:
            found.append({"type": "volume", "source": "", "destination": place, "options": [], "anonymous": True})
    return found


def parse_tmpfs(text: str) -> MountSpec:
    """``DESTINATION[:OPTIONS]`` of --tmpfs."""
    from rl.engine.spec import tmpfs

    path, _, rest = text.partition(":")
    return tmpfs.spec("tmpfs", destination(path, "--tmpfs"), [o for o in rest.split(",") if o], f"--tmpfs {text!r}")


def parse_volume(text: str) -> MountSpec:
    """``[SOURCE:]DESTINATION[:OPTIONS]``; a source that begins with / or . is a host path, else a volume's name."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]):
        raise UsageError(f"-v {text!r} is not a volume", "write -v [SOURCE:]DESTINATION[:OPTIONS]")
    if len(parts) == 1:
        place = destination(parts[0], "-v")
        return {"type": "volume", "source": "", "destination": place, "options": [], "anonymous": True}
    source, place = parts[0], destination(parts[1], "-v")
    flags = [flag for flag in (parts[2].split(",") if len(parts) == 3 else []) if flag]
    if source.startswith(("/", ".")):
        return bind(source, place, flags, f"-v {text}")
    return volume(source, place, flags, f"-v {text}")


def bind(source: str, place: str, flags: list[str], flag: str) -> MountSpec:
    """A directory or file of the host. Raises UsageError, and AccessError for what the caller cannot reach."""
    path = os.path.abspath(source)
    spec: MountSpec = {"type": "bind", "source": path, "destination": place, "options": []}
    flags = _own_words(spec, flags, flag)
    if not os.path.lexists(path):
        from rl.engine.spec import reach

        reach.check(path, flag)  # a directory above that is closed to the caller
        raise UsageError(f"{flag}: no such file or directory: {path}", f"create it first: mkdir -p {path}")
    if spec.get("overlay") and not os.path.isdir(path):
        raise UsageError(f"{flag}: O is for a directory, and {path} is none")
    recursive = "bind" if "bind" in flags else "rbind"
    spec["options"] = [recursive, *(option for option in flags if option in _OF_THE_MOUNT)]
    return spec


def volume(name: str, place: str, flags: list[str], flag: str) -> MountSpec:
    """A named volume."""
    if not is_name(name):
        raise UsageError(
            f"{flag}: {name!r} is not a volume's name",
            "use letters, digits, '_', '.' and '-'; the path of a directory begins with / or ./",
        )
    spec: MountSpec = {"type": "volume", "source": name, "destination": place, "options": []}
    flags = _own_words(spec, flags, flag)
    if any(option in PROPAGATION for option in flags):
        raise UsageError(f"{flag}: mount propagation is for directories of the host, not for volumes", "leave it out")
    spec["options"] = [option for option in flags if option in _OF_THE_MOUNT]
    spec["no_copy"] = "nocopy" in flags
    return spec


def _own_words(spec: MountSpec, flags: list[str], flag: str) -> list[str]:
    """Check *flags*; those that are no mount options (O, upperdir, workdir, idmap) go into *spec*. The others."""
    left = []
    for option in flags:
        key, equals, value = option.partition("=")
        if key in ("upperdir", "workdir") and value:
            name = "upper" if key == "upperdir" else "work"
            if name in spec:
                raise UsageError(f"{flag}: can only specify 1 {key} per overlay")
            spec[name] = os.path.abspath(value)  # type: ignore[literal-required]
        elif key == "idmap":
            from rl.engine.spec import id_mount

            spec["id_map"] = id_mount.parse(value, flag) if equals else {}
        elif option in _KNOWN:
            left.append(option)
        else:
            known = ", ".join(sorted((*_KNOWN, "idmap", "upperdir=", "workdir=")))
            raise UsageError(f'{flag}: invalid option type "{option}"', f"known: {known}")
    check(left, flag)
    if "O" in left:
        spec["overlay"] = True
        if ("upper" in spec) != ("work" in spec):
            raise UsageError(f"{flag}: an overlay needs both upperdir and workdir, or neither")
        wrong = [option for option in left if option in ("ro", "rro", "copy", "nocopy", *PROPAGATION)]
        if wrong or "id_map" in spec:
            word = wrong[0] if wrong else "idmap"
            raise UsageError(f"{flag}: O and {word} exclude each other", "an overlay is a writable mount of its own")
    elif "upper" in spec or "work" in spec:
        raise UsageError(f"{flag}: upperdir and workdir are for an overlay", "add the option O")
    return left


def check(flags: list[str], flag: str) -> None:
    """Raise UsageError for options that contradict each other, in Podman's words."""
    for group, what in _GROUPS:
        given = [option for option in flags if option in group]
        if len(given) > 1:
            raise UsageError(f'{flag}: invalid options "{", ".join(given)}", can only specify 1 {what} option')
    if flags.count("U") > 1:
        raise UsageError(f"{flag}: invalid options \"U, U\", can only specify 1 'U' option")


def destination(path: str, flag: str) -> str:
    """*path* without dots and doubled slashes. Raises UsageError unless it is a path in the container, not its root."""
    if not path.startswith("/"):
        raise UsageError(f"{flag}: the destination {path!r} must be an absolute path in the container")
    normal = os.path.normpath(path)
    normal = "/" + normal.lstrip("/")
    if normal == "/":
        raise UsageError(f"{flag}: the destination must not be /", "to change the root file system, use --rootfs")
    return normal

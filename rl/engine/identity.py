"""Who the container's user is: --user against its files, and the entries it gets in /etc/passwd and /etc/group.

Programs look there for names and homes, and images know only their own users. As in Podman an entry is made for the
user of keep-id, for a numeric --user that the image does not know, and for --hostuser; --passwd=false makes none. The
changed files are copies, mounted over the image's. Called by launch; the flags are checked by rl.engine.spec.accounts.
Source: podman-run(1), --passwd, --passwd-entry, --group-entry, --hostuser; passwd(5), group(5).
"""

from __future__ import annotations

import os

from rl.engine.spec.accounts import KEEP_GROUPS
from rl.errors import UnsupportedError
from rl.kernel import process
from rl.runtime import rootpath, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig
    from rl.engine.oci import Context

_LIMIT = 8 << 20  # bytes; an image cannot make us read more


def lookup(config: ContainerConfig, context: Context) -> None:
    """Fill in *context*: uid, gid, further groups and home of the container's user. Raises RlError."""
    user = config["user"]
    name, colon, group = user.partition(":")
    for known, uid, gid, _, _ in config.get("host_users", []):
        if name == known and _entry(_lines(context.rootfs, "passwd"), 0, name) is None:
            user = f"{uid}:{group if colon else gid}"  # --user by the name that --hostuser brings
    context.uid, context.gid, groups, context.home = users.lookup(context.rootfs, user)
    added = config["group_add"]
    if added == [KEEP_GROUPS]:
        context.keep_groups = True
    elif added and context.id_mode == "single":
        raise UnsupportedError(
            "--group-add: the kernel allows no further groups in a user namespace of a single id",
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
        )
    else:
        groups = groups + [gid for gid in users.group_ids(context.rootfs, added) if gid not in groups]
    context.additional_gids = groups
    _check_ids(config, context)


def _check_ids(config: ContainerConfig, context: Context) -> None:
    """A user the id map does not hold would fail late and with EINVAL: say it now."""
    ranges = config["uid_map"] or process.id_map("uid")
    if not any(inside <= context.uid < inside + count for inside, _, count in ranges):
        raise UnsupportedError(
            f"run as user {config['user'] or 'root'}: uid {context.uid} is not in the container's id map",
            "this host maps a single id; sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
            if context.id_mode == "single" else "extend the user's range in /etc/subuid and /etc/subgid",
        )


def write_entries(
    config: ContainerConfig, context: Context, directory: str, owner: tuple[int, int], host_uid: int | None
) -> None:
    """Copies of the image's passwd and group with the entries it lacks, in *directory*, to be mounted over them.

    *owner*: ids of the container's root; *host_uid*: the caller's uid, whose name the user of keep-id gets.
    """
    if not config["options"].get("passwd", True):
        return
    if not (config.get("host_users") or config["userns"].startswith("keep-id") or _by_number(config["user"])):
        return
    passwd, group = _lines(context.rootfs, "passwd"), _lines(context.rootfs, "group")
    new = {"passwd": _passwd_entries(config, context, passwd, host_uid), "group": []}
    if _entry(group, 2, str(context.gid)) is None:
        known = [line.split(":") for line in new["passwd"]] + passwd
        own = _entry(known, 2, str(context.uid))
        new["group"].append(_group_entry(config, context, own[0] if own else str(context.uid)))
    for file, lines in new.items():
        if lines:
            old = passwd if file == "passwd" else group
            _write(f"{directory}/{file}", [":".join(fields) for fields in old] + lines, owner)
            context.binds.append((f"{directory}/{file}", f"/etc/{file}"))


def _by_number(user: str) -> bool:
    return any(part.isascii() and part.isdigit() for part in user.split(":"))


def _passwd_entries(
    config: ContainerConfig, context: Context, known: list[list[str]], host_uid: int | None
) -> list[str]:
    """The lines to add, the container's own user last."""
    lines: list[str] = []
    wanted = config["options"].get("passwd_entry", "")
    for name, uid, gid, full_name, home in config.get("host_users", []):
        if _entry(known, 0, name) is None and _entry(known, 2, str(uid)) is None:
            here = home if _mounted(config, home) else config["workdir"]
            lines.append(_passwd_line(wanted, name, uid, gid, full_name, here))
            if uid == context.uid:
                context.home = here
    if _entry(known, 2, str(context.uid)) is not None or any(line.split(":")[2] == str(context.uid) for line in lines):
        return lines
    if config["userns"].startswith("keep-id"):
        name, full_name, home = _caller(context.uid, host_uid)
    elif _by_number(config["user"].partition(":")[0]):
        name, full_name, home = str(context.uid), "container user", ""
    else:
        return lines
    context.home = home if home and _mounted(config, home) else config["workdir"]
    lines.append(_passwd_line(wanted, name, context.uid, context.gid, full_name, context.home))
    return lines


def _caller(uid: int, host_uid: int | None) -> tuple[str, str, str]:
    """Name, full name and home of keep-id's user: the caller's, where the number is the caller's."""
    if host_uid != uid:
        return "user", "user", ""
    import pwd

    entry = pwd.getpwuid(uid)
    return entry.pw_name, entry.pw_gecos.replace(":", " ") or entry.pw_name, entry.pw_dir


def _passwd_line(wanted: str, name: str, uid: int, gid: int, full_name: str, home: str) -> str:
    line = wanted or "$USERNAME:*:$UID:$GID:$NAME:$HOME:/bin/sh"
    values = {"USERNAME": name, "UID": str(uid), "GID": str(gid), "NAME": full_name, "HOME": home}
    return _filled(line, values)


def _group_entry(config: ContainerConfig, context: Context, user: str) -> str:
    name = user if config["userns"].startswith("keep-id") and not user.isdigit() else str(context.gid)
    line = config["options"].get("group_entry", "") or "$GROUPNAME:x:$GID:$USERLIST"
    members = "" if name == user and not user.isdigit() else user
    return _filled(line, {"GROUPNAME": name, "GID": str(context.gid), "USERLIST": members})


def _filled(line: str, values: dict[str, str]) -> str:
    for name in sorted(values, key=len, reverse=True):  # longer names first: one may begin another
        line = line.replace(f"${name}", values[name])
    return line


def _mounted(config: ContainerConfig, home: str) -> bool:
    """Whether the container sees the host's *home*: a directory of the host is mounted there or above."""
    for spec in config["mounts"]:
        place = spec["destination"].rstrip("/")
        if spec["type"] == "bind" and (home == place or home.startswith(f"{place}/")):
            return True
    return False


def _lines(root: str, file: str) -> list[list[str]]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        text = rootpath.read_limited(fd, f"/etc/{file}", _LIMIT).decode(errors="surrogateescape")
    finally:
        os.close(fd)
    return [line.split(":") for line in text.removesuffix("\n").split("\n")] if text else []


def _entry(lines: list[list[str]], field: int, value: str) -> list[str] | None:
    return next((fields for fields in lines if fields[field : field + 1] == [value]), None)


def _write(path: str, lines: list[str], owner: tuple[int, int]) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as output:
        output.write("".join(f"{line}\n" for line in lines))
    os.chmod(path, 0o644)
    os.chown(path, *owner)


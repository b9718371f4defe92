"""Why a container's start was denied: which part of the path, whose it is outside and inside, which flag helps.

The kernel says "Permission denied" and no more. The monitor knows where each path of the container lies on the host,
the id maps and the container's user; so it walks the path by the rules of path_resolution(7). Cold: after a failure.
"""

from __future__ import annotations

import os
import stat

from rl.errors import CommandNotExecutableError
from rl.kernel import proc
from rl.runtime import access, rootpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig, MountSpec
    from rl.engine.oci import Context
    from rl.errors import RlError

_DENIED = os.strerror(13)


def explain(error: RlError, config: ContainerConfig, context: Context) -> RlError:
    """*error*, with the reason and the remedy where it is a closed directory or a file without permission."""
    if _DENIED not in error.message:
        return error
    if error.message.startswith("enter working directory "):
        path = config["workdir"]
    elif isinstance(error, CommandNotExecutableError) and error.message.startswith("start /"):
        path = error.message.removeprefix("start ").partition(f": {_DENIED}")[0]
    else:
        return error
    try:
        found = _closed(path, config, context)
    except OSError:
        return error
    if found is None:
        return error
    return type(error)(f"{error.message}: {found.text(config, context)}", found.hint(config, context))


class _Closed:
    """The part of a path that the container's user may not pass."""

    def __init__(self, inside: str, spec: MountSpec | None, host: str, status: os.stat_result) -> None:
        self.inside = inside
        self.spec = spec  # the mount it lies in
        self.host = host
        self.status = status
        self.is_directory = stat.S_ISDIR(status.st_mode)

    def text(self, config: ContainerConfig, context: Context) -> str:
        """``/d/x (…/x on the host) belongs to uid 0 (on the host NAME), mode 0700; the container's user is …``"""
        uid = _inside(config["uid_map"], self.status.st_uid)
        owner = "a user outside of the container's id map" if uid < 0 else f"uid {uid} of the container"
        host = access.outside(self.status.st_uid) if not access.is_unknown(self.status.st_uid) else -1
        on_host = f" ({access.name_of(host)} on the host)" if host >= 0 else ""
        where = f" ({self.host} on the host)" if self.spec else ""
        mode = f"mode {stat.S_IMODE(self.status.st_mode):04o}"
        return f"{self.inside}{where} belongs to {owner}{on_host}, {mode}, and the command runs as uid {context.uid}"

    def hint(self, config: ContainerConfig, context: Context) -> str:
        """The flag that helps."""
        if self.spec is None:
            what = "o+x" if self.is_directory else "a+rx"
            return f"chmod {what} {self.inside} when the image is built, or run as its owner with --user"
        mine = access.outside(self.status.st_uid) == access.outside(0)
        ways = []
        if mine and self.spec["type"] == "bind" and context.uid and not config["userns"]:
            ways.append(f"--userns=keep-id:uid={context.uid},gid={context.gid} makes the container's user you")
        if not self.is_directory and not self.status.st_mode & 0o111:
            ways.append(f"chmod +x {self.host}")
        elif not access.is_unknown(self.status.st_uid):
            ways.append("the mount option U gives the files to the container's user")
            ways.append(f"chmod {'o+x' if self.is_directory else 'a+rx'} {self.host} opens it to all")
        else:
            ways.append("only its owner can open it: mount something of your own")
        return "; or ".join(ways)


def _closed(path: str, config: ContainerConfig, context: Context) -> _Closed | None:
    at = ""
    names = [name for name in path.split("/") if name not in ("", ".")]
    for position, name in enumerate(["", *names]):
        at = f"{at}/{name}" if name else "/"
        at = at.replace("//", "/")
        found = _look(at, config, context)
        if found is None:
            return None
        if not _may_pass(found.status, config, context):
            return found
        if position == len(names):
            return None
    return None


def _look(inside: str, config: ContainerConfig, context: Context) -> _Closed | None:
    """What the container has at *inside*; None where only the container itself can say (a tmpfs)."""
    best: MountSpec | None = None
    for spec in config["mounts"]:
        place = spec["destination"]
        if f"{inside}/".startswith(f"{place}/") and (best is None or len(place) > len(best["destination"])):
            best = spec
    if best is None:
        base, rest = context.rootfs, inside
    elif best["type"] in ("bind", "volume", "image"):
        place = best["destination"]
        base = context.sources.get(place) or context.volumes.get(place) or best["source"]
        rest = inside[len(place) :]
    else:
        return None
    if not os.path.isdir(base):
        return _Closed(inside, best, base, os.stat(base))
    root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = rootpath.resolve(root, rest or "/")
        try:
            return _Closed(inside, best, base + rest, os.fstat(found))
        finally:
            os.close(found)
    finally:
        os.close(root)


def _may_pass(status: os.stat_result, config: ContainerConfig, context: Context) -> bool:
    """Execute (search) permission of the container's user, as path_resolution(7) has it."""
    mode = status.st_mode
    if context.uid == 0 and not access.is_unknown(status.st_uid):
        return stat.S_ISDIR(mode) or bool(mode & 0o111)  # CAP_DAC_OVERRIDE
    groups = {context.gid, *context.additional_gids}
    if _inside(config["uid_map"], status.st_uid) == context.uid:
        return bool(mode & 0o100)
    if _inside(config["gid_map"], status.st_gid) in groups:
        return bool(mode & 0o010)
    return bool(mode & 0o001)


def _inside(ranges: list[tuple[int, int, int]], number: int) -> int:
    """The container's id for shared id *number*, -1 without one."""
    if access.is_unknown(number):
        return -1
    return proc.inside(ranges, number) if ranges else number

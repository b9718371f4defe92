"""Making a network namespace (and the user namespace that will own it) without entering it.

The monitor is single-threaded and must stay in the host's network namespace, where pasta and
slirp4netns live too. So a short-lived child unshares, brings ``lo`` up, and the monitor keeps the
result as file descriptors; the OCI configuration names them ``/proc/<monitor pid>/fd/N``.

Called by the monitor. Source: network_namespaces(7), user_namespaces(7).
"""

from __future__ import annotations

import os

from rl.errors import RlError, UnsupportedError
from rl.kernel import mount as m
from rl.kernel import namespaces as ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.config.model import IdRange

#: What Podman sets too (containers.conf, default_sysctls): every group of the container may ping.
SYSCTLS = (("net/ipv4/ping_group_range", "0 0"),)


def create(
    userns_maps: tuple[Sequence[IdRange], Sequence[IdRange]] | None = None,
    *,
    network: bool = True,
    join: int = -1,
    sysctls: Sequence[tuple[str, str]] = SYSCTLS,
) -> tuple[int, int]:
    """(user namespace fd or -1, network namespace fd or -1), both close-on-exec, ``lo`` up.

    With *userns_maps* (uid map, gid map) a user namespace nested in the current one is made first and
    owns the network namespace; with *network* false that is all (network fd -1). *join*, a descriptor that is closed,
    is a user namespace to take instead of a new one. *sysctls* are (path below /proc/sys, value), best effort.
    Raises UnsupportedError where the kernel forbids one of the two.
    """
    ask_r, ask_w = os.pipe2(os.O_CLOEXEC)  # child → parent: one byte per stage
    go_r, go_w = os.pipe2(os.O_CLOEXEC)  # parent → child: go on
    child = os.fork()
    if child == 0:
        _child(ask_w, ask_r, go_r, go_w, userns_maps is not None, join, network, sysctls)
    os.close(ask_w)
    os.close(go_r)
    user = net = -1
    try:
        if userns_maps is not None:
            _expect(ask_r, "user")
            user = ns.open_namespace(child, "user")
            for kind, ranges in zip(("uid", "gid"), userns_maps if join < 0 else (), strict=join < 0):
                ns.write_proc(f"/proc/{child}/{kind}_map", "".join(f"{a} {b} {n}\n" for a, b, n in ranges))
            os.write(go_w, b"g")
        _expect(ask_r, "network")
        if network:
            net = ns.open_namespace(child, "net")
        return user, net
    except BaseException as error:
        for fd in (user, net):
            if fd >= 0:
                os.close(fd)
        if isinstance(error, OSError):
            raise RlError(f"set up the container's namespaces: {error.strerror} ({error.filename})") from None
        raise
    finally:
        os.close(go_w)  # the child ends at end of file
        if join >= 0:
            os.close(join)
        os.close(ask_r)
        os.waitpid(child, 0)


def _child(
    ask_w: int, ask_r: int, go_r: int, go_w: int, nested: bool, join: int, network: bool,
    sysctls: Sequence[tuple[str, str]],
) -> None:
    code = 1
    try:
        os.close(ask_r)
        os.close(go_w)  # or our own copy would hide the parent's end of file
        if nested:
            if join >= 0:
                ns.setns(join, ns.CLONE_NEWUSER)
            else:
                ns.unshare(ns.CLONE_NEWUSER)
            os.write(ask_w, b"\0")
            if os.read(go_r, 1) != b"g":
                os._exit(1)
        if network:
            _new_network(sysctls)
        os.write(ask_w, b"\0")
        os.read(go_r, 1)
        code = 0
    except OSError as error:
        os.write(ask_w, bytes((min(error.errno or 255, 255),)))
    finally:
        os._exit(code)


def _new_network(sysctls: Sequence[tuple[str, str]]) -> None:
    ns.unshare(ns.CLONE_NEWNET)
    ns.loopback_up()
    for path, value in sysctls:
        try:
            ns.write_proc(f"/proc/sys/{path}", value)
        except OSError:
            pass  # group 0 is not mapped, or a read-only /proc/sys


_KNOBS = {"user": "user.max_user_namespaces", "network": "user.max_net_namespaces"}


def _expect(fd: int, kind: str) -> None:
    """One stage done, or the errno with which it failed."""
    answer = os.read(fd, 1)
    if answer == b"\0":
        return
    reason = os.strerror(answer[0]) if answer else "the helper process died"
    raise UnsupportedError(
        f"create a {kind} namespace: {reason}",
        f"check `sysctl {_KNOBS[kind]}`; without a network namespace, use --network=host",
    )


class Pinned:
    """A namespace fd mounted on a file in the caller's own mount namespace, for programs that need a path.

    A process that has dropped capabilities (pasta, first thing) may not look into /proc/<monitor>/fd:
    ptrace(2) access rules. A bind mount is an ordinary path. It is taken back once the program is up.
    """

    __slots__ = ("path",)

    def __init__(self, fd: int, path: str) -> None:
        self.path = path
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            m.mount(f"/proc/self/fd/{fd}", path, None, m.MS_BIND)
        except OSError as error:
            self._unlink()
            raise RlError(f"mount the network namespace on {path}: {error.strerror}") from None

    def release(self) -> None:
        """Unmount and remove the file; harmless when done twice."""
        if self.path:
            try:
                m.umount(self.path, m.MNT_DETACH)
            except OSError:
                pass
            self._unlink()
            self.path = ""

    def _unlink(self) -> None:
        try:
            os.unlink(self.path)
        except OSError:
            pass


def pin_path(run_dir: str) -> str:
    """Where to mount a namespace for a program that AppArmor confines.

    Its profile for passt (Debian, Ubuntu, openSUSE) allows network namespaces only in
    /run/user/UID/netns, the directory Podman uses.
    """
    if run_dir.startswith("/run/user/") and _apparmor():
        directory = "/".join(run_dir.split("/")[:4]) + "/netns"
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            return f"{directory}/rl-{os.getpid()}"
        except OSError:
            pass
    return f"{run_dir}/netns.{os.getpid()}"


def _apparmor() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False

"""A mount of another container, brought into the caller's mount namespace: --ipc=container: shares its /dev/shm.

A mount cannot be bound across mount namespaces. A short-lived child enters the other one, makes a detached copy
there (open_tree(2)) and hands it over; the caller attaches it with move_mount(2).
"""

from __future__ import annotations

import os

from rl.errors import RlError
from rl.kernel import mount as m
from rl.kernel import namespaces as ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket


def attach_from(pid: int, path: str, target: str) -> None:
    """Show at directory *target* here what is mounted at *path* in process *pid*'s mount namespace.

    The caller has all capabilities over both namespaces. Raises RlError.
    """
    import _socket

    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    child = os.fork()
    if child == 0:
        _send_tree(theirs, pid, path)
    theirs.close()
    try:
        data, ancillary, _, _ = ours.recvmsg(256, 64)
        if not ancillary:
            reason = data.decode(errors="replace") or "the helper process died"
            raise RlError(f"share {path} of process {pid}: {reason}")
        tree = int.from_bytes(ancillary[0][2][:4], "little")
        try:
            m.move_mount(tree, target)
        except OSError as error:
            raise RlError(f"mount the shared {path} on {target}: {error.strerror}") from None
        finally:
            os.close(tree)
    finally:
        ours.close()
        os.waitpid(child, 0)


def _send_tree(sock: _socket.socket, pid: int, path: str) -> None:
    import _socket

    try:
        try:
            ns.setns(ns.open_namespace(pid, "mnt"), ns.CLONE_NEWNS)
            tree = m.open_tree(path, m.OPEN_TREE_CLONE)
            sock.sendmsg([b"t"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, tree.to_bytes(4, "little"))])
        except OSError as error:
            sock.send(str(error.strerror).encode())
    finally:
        os._exit(0)

"""Handing the listener of a filter with SCMP_ACT_NOTIFY to the agent that answers the calls.

The agent listens on ``listenerPath``. The runtime connects before the container is made, so that an agent that is not
there is an error early, and keeps the connection until the filter is loaded. Then the process itself sends its
state and the listener in one message; nobody else has to do with it, so it works alike for create and exec, before and
after the start. The filter is in force then: the profile must allow sendmsg(2), and may not send *that* call to the
agent, who could not answer it yet. Other runtimes have the same rule for write(2).

Called by :mod:`rl.runtime.process`, imported only for such profiles.
Source: OCI runtime specification, config-linux.md "The Container Process State"; seccomp_unotify(2).
"""

from __future__ import annotations

import _socket
import os
import struct

from rl.config.jsonio import dumps
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PATIENCE = 10  # seconds until a socket that accepts nobody is an error
_PATH_LENGTH = 107  # bytes in sockaddr_un


def connect(path: str) -> int:
    """A descriptor connected to the agent at *path*. Raises RlError when nobody listens there."""
    problem = ""
    if not path.startswith("/"):
        raise RlError(f"linux.seccomp.listenerPath {path!r} is not absolute")
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    directory = -1
    try:
        sock.settimeout(_PATIENCE)
        name = path
        if len(os.fsencode(path)) > _PATH_LENGTH:
            directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            name = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        sock.connect(name)
        sock.settimeout(None)
        return sock.detach()
    except TimeoutError:
        problem = f"nobody accepted within {_PATIENCE} s"
    except OSError as error:
        problem = error.strerror or str(error)
    finally:
        sock.close()
        if directory >= 0:
            os.close(directory)
    raise RlError(
        f"connect to the seccomp agent at {path} (linux.seccomp.listenerPath): {problem}",
        "start the agent before the container",
    )


def message(state: dict[str, Any], metadata: str, pid: int) -> bytes:
    """The container process state: *state* is the container's (config-linux.md), *pid* the process's number outside."""
    document = {
        "ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid, "metadata": metadata,
        "state": state if state.get("pid") else {**state, "pid": pid},
    }
    return dumps(document).encode()


def hand_over(sock: _socket.socket, text: bytes, listener: int) -> None:
    """Send *text* with the *listener*, and let go of both; runs under the filter."""
    try:
        sock.sendmsg([text], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", listener))])
    except OSError as error:
        raise RlError(
            f"send the seccomp listener to the agent: {error.strerror}",
            "the profile must allow sendmsg, and the agent must still be there",
        ) from None
    try:
        os.close(listener)
        sock.close()
    except OSError:
        pass  # a profile that forbids close(2): both end with exec

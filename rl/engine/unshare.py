"""`rl unshare`: a command in the user namespace of the containers, where their files belong to root or its users."""

from __future__ import annotations

import _signal  # no stub; `signal` costs an import of enum
import errno
import os

from rl.errors import CommandNotExecutableError, CommandNotFoundError, UnsupportedError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.engine.context import Engine


def unshare(engine: Engine, command: Sequence[str], *, rootless_netns: bool = False) -> int:
    """Become *command* (default: the user's shell) inside the shared user namespace, with this process's stdio.

    Does not return: the exit status is the command's own. A mount namespace comes with it, so what is mounted there
    ends with the command. As for Podman, $CONTAINERS_GRAPHROOT and $CONTAINERS_RUNROOT name rl's directories.
    Raises CommandNotFoundError (127), CommandNotExecutableError (126), UnsupportedError.
    """
    if rootless_netns:
        raise UnsupportedError(
            "unshare --rootless-netns: there is no network namespace that all containers share",
            "each container has its own: nsenter -t $(rl inspect --format '{{.State.Pid}}' NAME) -n",
        )
    argv = list(command) or [os.environ.get("SHELL") or "/bin/sh"]
    environment = {
        **os.environ,
        "CONTAINERS_GRAPHROOT": engine.paths.data,
        "CONTAINERS_RUNROOT": engine.paths.run,
        # For programs of this family that would make a user namespace of their own: it is done.
        "_CONTAINERS_USERNS_CONFIGURED": "done",
        "_CONTAINERS_ROOTLESS_UID": str(os.getuid()),
        "_CONTAINERS_ROOTLESS_GID": str(os.getgid()),
    }
    userns.enter(engine.paths.run)
    # Python ignores these two, and what is ignored stays so across exec.
    for name in ("SIGPIPE", "SIGXFSZ"):
        _signal.signal(getattr(_signal, name), _signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        what = f"run {argv[0]}: {error.strerror}"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if os.path.exists(argv[0]) and "/" in argv[0]:
                raise CommandNotExecutableError(what, "the interpreter its first line names does not exist") from None
            raise CommandNotFoundError(what) from None
        raise CommandNotExecutableError(what) from None

"""The command line's half of a launch, shared by run and start: which streams, which message, attaching."""

from __future__ import annotations

import os

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.engine.context import Engine


class Streams:
    """Which of the container's streams the command line is attached to."""

    __slots__ = ("detach_keys", "sig_proxy", "stderr", "stdin", "stdout")

    def __init__(self, stdin: bool, stdout: bool, stderr: bool, detach_keys: str, sig_proxy: bool = True) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.detach_keys = detach_keys
        self.sig_proxy = sig_proxy

    @property
    def any(self) -> bool:
        """Whether the command line stays."""
        return self.stdin or self.stdout or self.stderr

    @classmethod
    def of_run(cls, config: ContainerConfig, options: dict[str, Any]) -> Streams:
        """-d, -a, -i and -t of `rl run`."""
        named = [name.lower() for name in options.get("attach", [])]
        for name in named:
            if name not in ("stdin", "stdout", "stderr"):
                raise UsageError(f"--attach: {name!r} is not a stream", "use stdin, stdout or stderr")
        keys, proxy = config["detach_keys"], bool(options.get("sig_proxy", True))
        if options.get("detach"):
            return cls(False, False, False, keys)
        if named:
            return cls("stdin" in named and config["stdin_open"], "stdout" in named, "stderr" in named, keys, proxy)
        return cls(config["stdin_open"], True, True, keys, proxy)


def launch_message(engine: Engine, streams: Streams) -> dict[str, Any]:
    """What the forked monitor is told; everything else it reads from the container's record."""
    return {
        "attach": streams.any,
        "streams": {"stdin": streams.stdin, "stdout": streams.stdout, "stderr": streams.stderr},
        "limits": engine.options.get("limits", ""),
        "uid": os.getuid(),
    }


def attach_streams(engine: Engine, config: ContainerConfig, sock: _socket.socket, streams: Streams, pid: int) -> int:
    """Relay between the caller's stdio and the container until it ends; its exit code.

    Detaching by keys leaves the container running and gives 0, as Podman does.
    """
    from rl.monitor import client

    return client.relay(
        sock.detach(),
        stdin=0 if streams.stdin else -1,
        stdout=1 if streams.stdout else -1,
        stderr=2 if streams.stderr else -1,
        tty=config["terminal"],
        detach_keys=streams.detach_keys,
        sig_proxy=streams.sig_proxy,
        pid=pid,
    )

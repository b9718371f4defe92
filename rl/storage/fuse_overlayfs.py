"""The fuse-overlayfs program as a child of the monitor, for hosts whose kernel refuses overlay mounts.

It reads the same on-disk format as the kernel: whiteouts as character devices 0:0, opaque
directories by ``user.overlay.opaque``.
"""

from __future__ import annotations

import os
import time

from rl.errors import RlError, UnsupportedError
from rl.kernel import process
from rl.runtime.userns import find_program
from rl.storage import mounting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.config.paths import Paths
    from rl.storage.driver import IdMaps, Mounted

_START_SECONDS = 10.0
_INSTALL = "install the package fuse-overlayfs, or use --storage-driver overlay or copy"
_COLON = "put the data elsewhere with --root, or use --storage-driver overlay or copy"


class FuseOverlayfs:
    """One fuse-overlayfs process per mount; it ends with the mount, or with the monitor."""

    name = "fuse-overlayfs"
    lasting = False  # whether the process is to outlive us, with its mount

    def probe(self, paths: Paths) -> str:
        """The program and /dev/fuse, then a real mount."""
        if not find_program("fuse-overlayfs"):
            return "the program fuse-overlayfs is not installed"
        try:
            os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return f"/dev/fuse: {error.strerror}"
        return mounting.probe(self, paths)

    def mount(
        self, lowers: list[str], upper: str, work: str, target: str, *, readonly: bool = False, volatile: bool = True,
        data: Sequence[str] = (), id_maps: IdMaps | None = None,
    ) -> Mounted:
        """See :class:`rl.storage.driver.Driver`. With *id_maps* the writable layer is shifted as the layers are."""
        program = find_program("fuse-overlayfs")
        if not program:
            raise UnsupportedError("mount with fuse-overlayfs: the program is not installed", _INSTALL)
        for path in (*lowers, upper, work):
            if ":" in path:  # it resolves whatever name it is given, and splits the result
                raise UnsupportedError(f"mount with fuse-overlayfs: it cannot use a path with a colon, {path}", _COLON)
        fds: list[int] = []
        errors_r, errors_w = os.pipe2(os.O_CLOEXEC)
        try:
            # Layers go by fd: the option list has no escape for ':' that every version understands.
            options = ["lowerdir=" + ":".join(mounting.fd_name(lower, fds) for lower in lowers)]
            if upper:
                options.append(f"upperdir={mounting.fd_name(upper, fds)}")
                options.append(f"workdir={mounting.fd_name(work, fds)}")
            if readonly or not upper:
                options.append("ro")
            if volatile:
                options.append("volatile")
            if id_maps:
                for name, ranges in zip(("uidmapping", "gidmapping"), id_maps, strict=True):
                    options.append(f"{name}=" + ":".join(str(number) for triple in ranges for number in triple))
            before = os.stat(target).st_dev
            argv = [program, "-f", "-o", ",".join(options), target]
            pid = _spawn(argv, fds, errors_w, self.lasting)
        finally:
            os.close(errors_w)
            for fd in fds:
                os.close(fd)
        try:
            _wait_mounted(pid, target, before, errors_r)
        finally:
            os.close(errors_r)
        return {"driver": self.name, "target": target, "pids": [pid]}

    def unmount(self, mounted: Mounted) -> None:
        """Unmount, and see the process end: it writes back on the way out."""
        mounting.detach(mounted["target"])
        for pid in mounted["pids"]:
            _end(pid)


def _spawn(argv: list[str], fds: list[int], errors: int, lasting: bool) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        if lasting:
            os.setsid()  # not ended by the terminal's signals either
        else:
            process.prctl(process.PR_SET_PDEATHSIG, 9)
            if os.getppid() != parent:
                os._exit(1)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(errors, 2)
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execv(argv[0], argv)
    except BaseException as error:
        os.write(errors, str(error).encode())
    finally:
        os._exit(1)


def _wait_mounted(pid: int, target: str, before: int, errors: int) -> None:
    """Return when *target* shows the mount. The program has no way to tell, so its file system is watched."""
    deadline = time.monotonic() + _START_SECONDS
    pause = 0.0005
    while True:
        try:
            if os.stat(target).st_dev != before:
                return
        except OSError as error:  # ENOTCONN: it died with the mount standing
            failure = error.strerror or ""
        else:
            failure = "not ready in time"
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            if not ended:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            else:
                failure = f"status {os.waitstatus_to_exitcode(status)}"
            text = os.read(errors, 4000).decode(errors="replace").strip() if _readable(errors) else ""
            raise RlError(f"fuse-overlayfs at {target}: {text or failure}", _INSTALL.replace("install", "reinstall", 1))
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def _readable(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


def _end(pid: int, seconds: float = 5.0) -> None:
    """Wait for our child *pid*; kill it when it does not end by itself."""
    deadline = time.monotonic() + seconds
    pause = 0.0005
    try:
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                return
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
    except ChildProcessError:
        pass  # the monitor's own loop has reaped it

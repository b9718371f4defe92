"""``--output``: the files of the target into a directory or an archive, or the image to more places than the store.

Called by rl.engine.build.build. Source: podman-build(1), "--output"; BuildKit's exporters.
"""

from __future__ import annotations

import os
import stat
import sys

from rl.engine.build.cache import Cache, Work
from rl.engine.build.files import Files
from rl.engine.build.state import State
from rl.engine.rootaccess import inside
from rl.errors import ConflictError, RlError, UsageError, disk_hint
from rl.runtime import userns
from rl.storage.tarwrite import TarWriter, to_fd
from rl.storage.treecopy import Copier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.paths import Paths

KINDS = ("local", "tar", "image", "oci", "docker")
#: What Podman's store calls the archives.
ARCHIVES = {"oci": "oci-archive", "docker": "docker-archive"}


class Output:
    """One ``--output``. ``dest``: a path, "-" for standard output; ``names`` and ``push``: of an image."""

    __slots__ = ("dest", "kind", "names", "push")

    def __init__(self, text: str) -> None:
        """Raises UsageError."""
        self.dest, self.kind, self.push = "", "", False
        self.names: list[str] = []
        if "=" not in text:
            self.kind, self.dest = ("tar", "-") if text == "-" else ("local", text)
        else:
            for field in text.split(","):
                self._field(field, text)
        if self.kind not in KINDS:
            what = f"type={self.kind}" if self.kind else "no type"
            raise UsageError(f"--output {text}: {what}", f"types are {', '.join(KINDS)}")
        if self.kind == "image":
            if self.dest:
                what = f"--output {text}: an image has a name, not a dest"
                raise UsageError(what, "type=image,name=NAME[,push=true]")
        elif not self.dest or self.names or self.push:
            raise UsageError(f"--output {text}: not a place", f"type={self.kind},dest=PATH")
        if self.kind == "local" and self.dest == "-":
            raise UsageError(f"--output {text}: a directory cannot go to standard output", "type=tar,dest=-")
        if self.dest == "-" and sys.stdout.isatty():
            raise UsageError("refusing to write an archive to the terminal", "redirect it: rl build -o - . > FILE.tar")

    def _field(self, field: str, text: str) -> None:
        key, _, value = field.partition("=")
        if key == "type":
            self.kind = value
        elif key in ("dest", "dst"):
            self.dest = value
        elif key == "name":
            self.names.append(value)
        elif key == "push" and value in ("true", "false", ""):
            self.push = value != "false"
        else:
            raise UsageError(f"--output {text}: {field!r}", "fields are type=, dest=, name=, push=")


def files(paths: Paths, cache: Cache, state: State, output: Output, driver: str) -> None:
    """The files of *state* to where *output* (local, tar) says. Raises ConflictError, RlError."""
    target, staged = -1, ""
    try:
        if output.kind == "local":
            os.makedirs(output.dest, exist_ok=True)
            target = os.open(output.dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        elif output.dest == "-":
            target = os.dup(1)
        else:
            staged = f"{output.dest}.{os.getpid()}.partial"
            target = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        inside(paths, _write, paths, cache, state.export(), output.kind, target, driver)
        if staged:
            os.rename(staged, output.dest)
            staged = ""
    except OSError as error:
        raise RlError(f"write {output.dest}: {error.strerror}", disk_hint(error)) from None
    finally:
        if target >= 0:
            os.close(target)
        if staged:
            try:
                os.unlink(staged)
            except FileNotFoundError:
                pass


def _write(paths: Paths, cache: Cache, record: dict[str, Any], kind: str, target: int, driver: str) -> None:
    """In the user namespace."""
    work = Work(cache)
    mounted = Files(paths, cache, work.path, driver)
    try:
        state = State.restore(record)
        root = os.open(mounted.mounted("all", mounted.lowers(state)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if kind == "local":
                # They are the caller's, who is root in here; what may not be replaced is an error, never lost.
                Copier(lambda uid, gid: (0, 0), foreign=True, keep_kinds=True).layer(root, target, itself=False)
                return
            single = userns.current_mode() == "single"
            regular = stat.S_ISREG(os.fstat(target).st_mode)
            writer = TarWriter(to_fd(target), fd=target if regular else -1, single=single)
            writer.tree(root)
            writer.finish()
        finally:
            os.close(root)
    except OSError as error:
        what = f"write the files of the build: {error.strerror}" + (f" ({error.filename})" if error.filename else "")
        raise ConflictError(what, disk_hint(error)) from None
    finally:
        mounted.close()
        work.close()

"""The XDG directories of the state (docs/architecture.md, "State")."""

from __future__ import annotations

import os

from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Paths:
    """Absolute paths of everything rl keeps; nothing is created until :meth:`ensure`.

    ``data`` survives reboots, ``run`` belongs to this boot, ``cache`` may be deleted at any time,
    ``config`` holds the containers ecosystem's own files (containers.conf, registries.conf, …).
    """

    __slots__ = ("cache", "config", "data", "run")

    def __init__(self, data: str, run: str, config: str, cache: str) -> None:
        self.data = data
        self.run = run
        self.config = config
        self.cache = cache

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], root: str = "", runroot: str = "") -> Paths:
        """The directories of the user whose environment this is; *root*/*runroot* override (``--root``)."""
        home = environ.get("HOME") or os.path.expanduser("~")
        uid = os.getuid()
        data = root or (environ.get("XDG_DATA_HOME") or f"{home}/.local/share") + "/rl"
        run = runroot or _runtime_base(environ, uid) + "/rl"
        config = (environ.get("XDG_CONFIG_HOME") or f"{home}/.config") + "/containers"
        cache = (environ.get("XDG_CACHE_HOME") or f"{home}/.cache") + "/rl"
        return cls(os.path.abspath(data), os.path.abspath(run), os.path.abspath(config), os.path.abspath(cache))

    # what survives reboots
    @property
    def blobs(self) -> str:
        return f"{self.data}/content/blobs/sha256"

    @property
    def content(self) -> str:
        return f"{self.data}/content"

    @property
    def layers(self) -> str:
        return f"{self.data}/layers"

    @property
    def images(self) -> str:
        return f"{self.data}/images"

    @property
    def containers(self) -> str:
        return f"{self.data}/containers"

    @property
    def names(self) -> str:
        """Container names: symbolic links ``name -> ../containers/<id>``, so taking one is atomic."""
        return f"{self.data}/names"

    @property
    def volumes(self) -> str:
        return f"{self.data}/volumes"

    @property
    def secrets(self) -> str:
        """One directory for each secret, named by its id."""
        return f"{self.data}/secrets"

    @property
    def trash(self) -> str:
        return f"{self.data}/trash"

    def container(self, container_id: str) -> str:
        return f"{self.data}/containers/{container_id}"

    # this boot only
    def container_run(self, container_id: str) -> str:
        """The monitor's directory: ``lock`` (held while it lives, holds its pid), ``attach`` (socket)."""
        return f"{self.run}/containers/{container_id}"

    def ensure(self) -> None:
        """Create the directories, private to the user. Raises RlError where that is not possible."""
        wanted = (self.data, self.run, f"{self.run}/containers", self.blobs, self.layers, self.images,
                  self.containers, self.names, self.volumes, self.secrets, self.trash)
        for path in wanted:
            try:
                os.makedirs(path, 0o700, exist_ok=True)
            except OSError as error:
                raise RlError(
                    f"create {path}: {error.strerror}",
                    "set HOME, XDG_DATA_HOME and XDG_RUNTIME_DIR to directories you may write to",
                ) from None


def _runtime_base(environ: Mapping[str, str], uid: int) -> str:
    """``$XDG_RUNTIME_DIR`` if it is usable, /run/user/UID, or a private directory in /tmp.

    A wrong XDG_RUNTIME_DIR is common after ``su`` and ``sudo``: it names another user's directory.
    """
    candidates = [environ.get("XDG_RUNTIME_DIR", ""), "/run" if uid == 0 else f"/run/user/{uid}"]
    for path in candidates:
        try:
            if path and os.stat(path).st_uid == uid and os.access(path, os.W_OK | os.X_OK):
                return path
        except OSError:
            continue
    return f"/tmp/rl-run-{uid}"

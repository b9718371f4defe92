"""A container's secrets: copied when it is made, so that it keeps what it was given; shown to it when it starts.

The copies are files ``secret.<id>`` (0600) of the container's directory, beside its writable layer: commit, export and
diff never see them. At the start, the data goes into a tmpfs of the monitor's mount namespace, of which files are
mounted into the container, or into the process's environment; never into config.json. Called by create, launch, exec.
"""

from __future__ import annotations

import errno
import os

from rl.config import secretcopies
from rl.config.jsonio import write_atomic, write_json
from rl.engine.spec.secrets import DIRECTORY, uses
from rl.errors import RlError, UnsupportedError, UsageError
from rl.kernel import mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.config.model import ContainerConfig, MountSpec, SecretUse
    from rl.config.paths import Paths
    from rl.engine.context import Engine


def wanted(engine: Engine, mounts: list[MountSpec], texts: list[str]) -> list[SecretUse]:
    """What --secret *texts* ask for, with the secrets' ids. Raises NoSuchSecretError, UsageError."""
    from rl.engine import secrets

    found = uses(texts)
    taken = {spec["destination"] for spec in mounts}
    for use in found:
        record = secrets.find(engine.paths, use["name"])
        use["id"], use["name"] = record["id"], record["name"]
        if use["type"] == "mount" and taken.intersection((use["target"], os.path.dirname(use["target"]))):
            raise UsageError(f"--secret: {use['target']}: duplicate mount destination", "give it another target=")
    return found


def copy(paths: Paths, config: ContainerConfig, directory: str, sync: bool, original: str = "") -> None:
    """Put the data of all secrets of *config* into *directory*: as container *original* has them, or from the secrets.

    Raises NoSuchSecretError for one that has just gone.
    """
    from rl.engine import secrets

    for use in {use["id"]: use for use in config["secrets"]}.values():
        secret_id, name = use["id"], use["name"]
        if original:
            data = secretcopies.read(paths.container(original), use)
        else:
            data = secrets.data_of(paths, secrets.find(paths, secret_id))
        if b"\0" in data and any(other["type"] == "env" and other["id"] == secret_id for other in config["secrets"]):
            raise RlError(f"--secret {name},type=env: a variable cannot hold the zero byte", "use type=mount")
        write_atomic(f"{directory}/{secretcopies.file_name(secret_id)}", data, 0o600, sync)


def show(
    directory: str, config: ContainerConfig, owner: Callable[[int, int], tuple[int, int]]
) -> list[tuple[str, str]]:
    """(source, destination) of the mounts that bring the secrets into the container; in the monitor's namespaces.

    *owner* gives the outer ids of the container's. The tmpfs is mounted at ``secrets`` of *directory*; the caller takes
    it back with :func:`hide`. Those below /run/secrets come as that one directory, so that no file is made for them in
    the container's own. Raises UnsupportedError where an id is not in the container's map.
    """
    uses = [use for use in config["secrets"] if use["type"] == "mount"]
    if not uses:
        return []
    contents = [secretcopies.read(directory, use) for use in uses]
    place = f"{directory}/secrets"
    os.makedirs(place, 0o700, exist_ok=True)
    size = sum(4096 + len(data) // 4096 * 4096 for data in contents) + 65536
    flags = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
    mount.mount("tmpfs", place, "tmpfs", flags, f"mode=0755,size={size},nr_inodes={len(uses) * 16 + 16}")
    binds = []
    for number, (use, data) in enumerate(zip(uses, contents, strict=True)):
        below = use["target"].startswith(f"{DIRECTORY}/")
        path = f"{place}/shown{use['target'].removeprefix(DIRECTORY)}" if below else f"{place}/{number}"
        _make_directory(os.path.dirname(path))
        _write(path, data, use, owner)
        if not below:
            binds.append((path, use["target"]))
    if os.path.isdir(f"{place}/shown"):
        os.chown(f"{place}/shown", *owner(0, 0))
        binds.insert(0, (f"{place}/shown", DIRECTORY))
    return binds


def _make_directory(path: str) -> None:
    """One that everybody may look into, whatever the caller's umask is."""
    if not os.path.isdir(path):
        _make_directory(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)


def _write(path: str, data: bytes, use: SecretUse, owner: Callable[[int, int], tuple[int, int]]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchown(fd, *owner(use["uid"], use["gid"]))
        os.fchmod(fd, use["mode"])  # after it: a change of owner takes the set-id bits away
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UnsupportedError(
            f"--secret {use['name']}: owner {use['uid']}:{use['gid']} is not in the container's id map",
            "leave uid= and gid= out, or extend the user's range in /etc/subuid and /etc/subgid",
        ) from None
    finally:
        os.close(fd)


def add_variables(
    directory: str, config: ContainerConfig, spec: dict[str, Any], bundle: str
) -> Callable[[], object]:
    """Those of type env into *spec*, which is in *bundle* without them and stays so on disk; what undoes it.

    Another runtime reads a file: it gets one in memory, mounted over the bundle in the monitor's mount namespace.
    """
    found = secretcopies.variables(directory, config["secrets"])
    spec["process"]["env"] += found
    if not found or config["runtime"] == "rl":
        return lambda: None
    mount.mount("tmpfs", bundle, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=0700,size=4m")
    write_json(f"{bundle}/config.json", spec, sync=False)
    return lambda: mount.umount(bundle, mount.MNT_DETACH)


def hide(directory: str) -> None:
    """Unmount what :func:`show` mounted."""
    try:
        mount.umount(f"{directory}/secrets", mount.MNT_DETACH)
    except OSError:
        pass  # nothing is mounted

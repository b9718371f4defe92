"""rl volume rename: another name for a volume that no container uses."""

from __future__ import annotations

import errno
import os

from rl.engine.spec.values import is_name
from rl.engine.volume import records
from rl.errors import ConflictError, RlError, UsageError, VolumeInUseError
from rl.image.content import records_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def rename(engine: Engine, name: str, new: str) -> str:
    """The new name. Raises NoSuchVolumeError, VolumeInUseError, ConflictError where *new* is taken, UsageError."""
    if not is_name(new):
        raise UsageError(
            f"volume name {new!r}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument",
            "use letters, digits, '_', '.' and '-'",
        )
    paths = engine.paths
    with records_lock(paths, exclusive=True):
        found = records.find(paths, name)
        users = records.users_of(paths, found)
        if users:
            raise VolumeInUseError(
                f"volume {found} is being used by the following container(s): {', '.join(users)}: volume is being used",
                f"remove them first: rl rm {' '.join(user[:12] for user in users)}",
            )
        taken = ConflictError(f"volume with name {new} already exists: volume already exists", f"rl volume rm {new}")
        if records.exists(paths, new):
            raise taken
        try:
            os.rename(records.directory(paths, found), records.directory(paths, new))  # fails unless it is free
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise taken from None
            raise RlError(f"rename volume {found} to {new}: {error.strerror}") from None
    from rl.engine.events import emit

    emit(paths, "volume", "rename", new, new)
    return new

"""rl logout: forget stored credentials."""

from __future__ import annotations

from rl.engine.login import normalize
from rl.errors import RlError
from rl.image.credentials import AuthFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def logout(engine: Engine, registry: str = "", *, all: bool = False, authfile: str = "") -> str:
    """Remove the credentials of *registry*, or of every registry; what to tell the user.

    Only the file that login writes is changed. Raises RlError where nothing was stored.
    """
    files = AuthFiles(engine.paths, authfile)
    if all:
        files.remove_all()
        return "Removed login credentials for all registries"
    key = normalize(engine, registry)
    if files.remove(key):
        return f"Removed login credentials for {key}"
    host, _, namespace = key.partition("/")
    if files.find(host, namespace):
        return (
            f"Not logged into {key} with current tool. Existing credentials were established via docker login."
            " Please use docker logout instead."
        )
    raise RlError(f"not logged into {key}", f"`rl login --get-login {key}` tells who is")

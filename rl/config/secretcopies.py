"""A container's copies of its secrets: files of its directory that nobody else may read, named by the secret's id.

Written by the engine when the container is made; read when it starts, by `rl exec` and by health checks.
"""

from __future__ import annotations

import os

from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import SecretUse


def file_name(secret_id: str) -> str:
    """The copy's name in the container's directory."""
    return f"secret.{secret_id}"


def read(directory: str, use: SecretUse) -> bytes:
    """What the container in *directory* was given. Raises RlError."""
    try:
        with open(f"{directory}/{file_name(use['id'])}", "rb") as file:
            return file.read()
    except OSError as error:
        what = f"read the container's copy of secret {use['name']}: {error.strerror}"
        raise RlError(what, "make the container again") from None


def variables(directory: str, uses: list[SecretUse]) -> list[str]:
    """``NAME=data`` of those of *uses* that are variables. Raises RlError."""
    return [f"{use['target']}={os.fsdecode(read(directory, use))}" for use in uses if use["type"] == "env"]

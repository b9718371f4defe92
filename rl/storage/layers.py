"""Where unpacked layers are, and which of them exist; on the path of every `rl run`.

``layers/<hex of the diff id>/`` holds one directory per on-disk id mapping and layer.json. The name
of a mapping is its *id key* (rl/storage/idmap.py): "" ids as the archive has them, "single" when the
host grants one id only, others for containers with a user namespace of their own.

A directory appears by rename(2) when it is complete and its digest verified; what exists is whole.
Called by the image store and the engine.
"""

from __future__ import annotations

import os

from rl.config.jsonio import read_json
from rl.errors import CorruptRecordError, NotFoundError, VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import LayerInfo
    from rl.config.paths import Paths

_HEX = frozenset("0123456789abcdef")
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}

#: Marks a layer that consists of two directories: fs.<base> and, above it, the few files of its own.
PATCH_SEPARATOR = "+"


def hex_of(diff_id: str) -> str:
    """The directory name of *diff_id* (``sha256:<hex>``). Raises VerificationError unless it is a digest."""
    algorithm, _, digits = diff_id.partition(":")
    if _LENGTHS.get(algorithm) != len(digits) or not _HEX.issuperset(digits):
        raise VerificationError(
            f"layer digest {diff_id!r} is not a digest", "the image's configuration is damaged: pull it again"
        )
    return digits


def layer_dir(paths: Paths, diff_id: str) -> str:
    """The directory of everything about one layer."""
    return f"{paths.layers}/{hex_of(diff_id)}"


def layer_path(paths: Paths, diff_id: str, id_key: str = "") -> str:
    """The tree of *diff_id* under mapping *id_key*, whether it exists or not."""
    return f"{paths.layers}/{hex_of(diff_id)}/fs" + (f".{id_key}" if id_key else "")


def has(paths: Paths, diff_id: str, id_key: str = "") -> bool:
    """Whether *diff_id* is there, whole, under mapping *id_key*."""
    if PATCH_SEPARATOR in id_key and not os.path.isdir(layer_path(paths, diff_id, id_key.split(PATCH_SEPARATOR)[0])):
        return False
    return os.path.isdir(layer_path(paths, diff_id, id_key))


def lowers(paths: Paths, diff_ids: list[str], id_key: str = "") -> list[str]:
    """The directories a driver stacks, top first, for *diff_ids* given base first.

    Raises NotFoundError naming the first layer that is missing.
    """
    stack = []
    for diff_id in diff_ids:
        path = layer_path(paths, diff_id, id_key)
        if PATCH_SEPARATOR in id_key:
            base = layer_path(paths, diff_id, id_key.split(PATCH_SEPARATOR)[0])
            if not os.path.isdir(base) or not os.path.isdir(path):
                raise _missing(diff_id, id_key)
            stack.append(base)
            with os.scandir(path) as entries:
                if next(entries, None) is not None:  # most layers have no file of that owner
                    stack.append(path)
        elif not os.path.isdir(path):
            raise _missing(diff_id, id_key)
        else:
            stack.append(path)
    stack.reverse()
    # A layer that is there twice (two steps that wrote nothing) has its effect at the top; overlayfs refuses it twice.
    return list(dict.fromkeys(stack))


def _missing(diff_id: str, id_key: str) -> NotFoundError:
    mapping = f" (id mapping {id_key})" if id_key else ""
    return NotFoundError(f"layer {diff_id[:19]}{mapping} is not unpacked here", "pull the image again")


def info(paths: Paths, diff_id: str) -> LayerInfo:
    """The record of an unpacked layer. Raises NotFoundError, CorruptRecordError."""
    path = f"{layer_dir(paths, diff_id)}/layer.json"
    try:
        record: LayerInfo = read_json(path)
    except FileNotFoundError:
        raise _missing(diff_id, "") from None
    except (OSError, ValueError) as error:
        raise CorruptRecordError(f"read {path}: {error}", "pull the image again") from None
    return record


def all_layers(paths: Paths) -> list[str]:
    """The directory names (hex digests) of every layer that is here, in no order."""
    try:
        return [name for name in os.listdir(paths.layers) if _HEX.issuperset(name) and len(name) >= 64]
    except FileNotFoundError:
        return []

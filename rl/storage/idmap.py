"""Layers with other owners on disk, for containers with a user namespace of their own.

In the shared namespace id 0 is the caller and 1… are the subordinate ids; a layer's ordinary tree
(``fs``, id key "") stores container id *c* as shared id *c*. A nested namespace (keep-id, nomap, auto) maps
its ids to other shared ids, so the files must belong to others. The kernel will not shift them for
us (idmapped overlay is closed to user namespaces), hence trees with other owners, made once. Here they are made
as copies, for kernels before 6.16; since then :mod:`rl.storage.metatree` makes them without the data.

=====================  ==================================================================================
id key                 contents
=====================  ==================================================================================
``""``                 as the archive has it
``single``             one id only is mapped; what the archive wanted is in ``user.rl.owner``
``shift<N>``           container id *c* stored as *c*+N: nomap and the base of every keep-id are
                       ``shift1``, auto is ``shift<first shared id>``. A copy, reflinked where possible
``shift1+keep<U>.<G>`` keep-id: *c* is *c*+1 too, but U and G are 0 (the caller). Not a copy: a *patch*
                       directory with just the files of U or G, stacked right above ``shift1``
``map-<hash>``         any other map: a copy
=====================  ==================================================================================

So `--userns=keep-id` costs one copy per image for all users U together, and then O(files of U). For
this the map must leave the shared id U+1 unused (:func:`keep_id_map`); Podman's own numbering
would need a copy per U. Inside the container both look the same.

A tree appears by rename when it is complete and durable. Called by the engine at create and start.
"""

from __future__ import annotations

import os

from rl.config.jsonio import dumps, loads
from rl.errors import NotFoundError, RlError, UnsupportedError, from_wire, to_wire
from rl.kernel import proc
from rl.runtime import userns
from rl.storage.layers import PATCH_SEPARATOR, has, layer_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import IdRange
    from rl.config.paths import Paths

    Progress = Callable[[str, int], None]  # diff id, files copied so far

SINGLE = "single"


# --------------------------------------------------------------------------- maps and keys


def keep_id_map(inside: int, size: int) -> list[IdRange]:
    """The map of a keep-id namespace: id *inside* is the caller (shared 0), any other *c* is shared *c*+1.

    *size* is the number of ids the shared namespace has; with one only, *inside* is all there is.
    """
    if size <= 1:
        return [(inside, 0, 1)]
    if inside == 0:
        return [(0, 0, size)]
    ranges: list[IdRange] = []
    below = min(inside, size - 1)
    if below:
        ranges.append((0, 1, below))
    ranges.append((inside, 0, 1))
    if size - inside - 2 > 0:
        ranges.append((inside + 1, inside + 2, size - inside - 2))
    return ranges


def shift_map(offset: int, size: int) -> list[IdRange]:
    """Container ids 0… as shared ids *offset*…: nomap is ``shift_map(1, shared size - 1)``."""
    return [(0, offset, size)]


def key_for(uid_map: list[IdRange], gid_map: list[IdRange]) -> str:
    """The id key under which layers suit a nested namespace with these maps (in ids of the shared one)."""
    if not uid_map and not gid_map:
        return ""
    if _lone(uid_map) and _lone(gid_map):
        return SINGLE
    uids, gids = _form(uid_map), _form(gid_map)
    if uids and gids:
        if uids[0] == gids[0] and uids[1] == gids[1] == -1:
            return f"shift{uids[0]}" if uids[0] else ""
        if uids[0] == gids[0] == 1 and uids[1] >= 0 and gids[1] >= 0:
            return f"shift1{PATCH_SEPARATOR}keep{uids[1]}.{gids[1]}"
    import hashlib

    canonical = dumps([[list(r) for r in sorted(ranges)] for ranges in (uid_map, gid_map)])
    return "map-" + hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _lone(ranges: list[IdRange]) -> bool:
    return len(ranges) == 1 and ranges[0][1] == 0 and ranges[0][2] == 1


def _form(ranges: list[IdRange]) -> tuple[int, int] | None:
    """(offset, id that maps to 0 or -1) if all ids but that one are shifted by one offset, else None."""
    kept = -1
    offsets = set()
    for inside, shared, count in ranges:
        if shared == 0 and count == 1 and (inside or len(ranges) > 1):
            kept = inside
        else:
            offsets.add(shared - inside)
    if len(offsets) != 1:
        return None
    offset = offsets.pop()
    return (offset, kept) if offset >= 0 else None


# --------------------------------------------------------------------------- making the trees


def ensure_mapped(
    paths: Paths, diff_ids: list[str], id_key: str, uid_map: list[IdRange], gid_map: list[IdRange],
    progress: Progress | None = None,
) -> None:
    """Have every layer under *id_key*; those that are there cost one stat(2) each.

    Called outside or inside the user namespace. *progress* gets (diff id, files copied) a few times a
    second. Raises NotFoundError for a layer that is not unpacked, UnsupportedError for an owner the map lacks.
    """
    if not id_key:
        return
    missing = [diff_id for diff_id in diff_ids if not has(paths, diff_id, id_key)]
    if not missing:
        return
    if userns.is_inside():
        _make_all(paths, missing, id_key, uid_map, gid_map, progress)
        return
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _child(paths, missing, id_key, uid_map, gid_map, write_end)
    os.close(write_end)
    error: RlError | None = None
    finished = False
    try:
        with open(read_end, "rb") as pipe:
            for line in pipe:
                report = loads(line.decode())
                if "error" in report:
                    error = from_wire(report["error"])
                elif "done" in report:
                    finished = True
                elif progress:
                    progress(report["diff_id"], report["files"])
    except BaseException:
        os.kill(child, 15)
        raise
    finally:
        os.waitpid(child, 0)
    if error or not finished:
        raise error or RlError("change the owners of layers: the process was killed")


def _child(
    paths: Paths, diff_ids: list[str], id_key: str, uid_map: list[IdRange], gid_map: list[IdRange], pipe: int
) -> None:
    def send(report: dict[str, object]) -> None:
        os.write(pipe, dumps(report).encode() + b"\n")

    try:
        try:
            userns.enter(paths.run)
            _make_all(paths, diff_ids, id_key, uid_map, gid_map,
                      lambda diff_id, files: send({"diff_id": diff_id, "files": files}))
            send({"done": True})
        except BaseException as error:
            send({"error": to_wire(error)})
    finally:
        os._exit(0)


def _make_all(
    paths: Paths, diff_ids: list[str], id_key: str, uid_map: list[IdRange], gid_map: list[IdRange],
    progress: Progress | None,
) -> None:
    from rl.storage.staging import Staging, make_durable, remove_stale

    owner = owner_function(uid_map, gid_map)
    base, _, patch = id_key.partition(PATCH_SEPARATOR)
    remove_stale(paths)
    staging = Staging(paths)
    staged: list[tuple[str, str]] = []
    try:
        for diff_id in diff_ids:
            try:
                source = _source(paths, diff_id, id_key)
                if patch:
                    if not has(paths, diff_id, base):
                        shifted = owner_function([(0, 1, 0xFFFFFFFE)], [(0, 1, 0xFFFFFFFE)])
                        staged.append(_copy(paths, diff_id, base, source, staging.path, shifted, 1, None, progress))
                    select = _selector(patch)
                    staged.append(_copy(paths, diff_id, id_key, source, staging.path, owner, 1, select, progress))
                else:
                    root = owner(0, 0)[0] if id_key != SINGLE else 0
                    staged.append(_copy(paths, diff_id, id_key, source, staging.path, owner, root, None, progress))
            except OSError as error:
                raise RlError(f"copy layer {diff_id[:19]} for another id mapping: {error.strerror}") from None
        make_durable(paths)
        for path, final in staged:
            try:
                os.rename(path, final)
            except OSError as error:
                if not os.path.isdir(final):  # else another process was first: its tree is as good
                    raise RlError(f"put {final} in place: {error.strerror}") from None
    finally:
        staging.close()


def _source(paths: Paths, diff_id: str, id_key: str) -> str:
    source = layer_path(paths, diff_id)
    if not os.path.isdir(source) or id_key == SINGLE:
        raise NotFoundError(f"layer {diff_id[:19]} is not unpacked here with all its owners", "pull the image again")
    return source


def _copy(
    paths: Paths, diff_id: str, id_key: str, source: str, staging: str, owner: Callable[[int, int], tuple[int, int]],
    namespace_root: int, select: Callable[[os.stat_result], bool] | None, progress: Progress | None,
) -> tuple[str, str]:
    """Copy one tree into the staging directory; (where it is, where it belongs)."""
    from rl.storage.treecopy import Copier

    final = layer_path(paths, diff_id, id_key)
    path = f"{staging}/{len(os.listdir(staging))}"
    report = (lambda files: progress(diff_id, files)) if progress else None
    Copier(owner, select=select, namespace_root=namespace_root, progress=report).layer(source, path)
    return path, final


def owner_function(uid_map: list[IdRange], gid_map: list[IdRange]) -> Callable[[int, int], tuple[int, int]]:
    """From a layer's (uid, gid) to those of the shared namespace; it raises UnsupportedError for one the maps lack."""
    known_uids: dict[int, int] = {}
    known_gids: dict[int, int] = {}

    def owner(uid: int, gid: int) -> tuple[int, int]:
        if uid not in known_uids:
            known_uids[uid] = _map(uid_map, uid, "uid")
        if gid not in known_gids:
            known_gids[gid] = _map(gid_map, gid, "gid")
        return known_uids[uid], known_gids[gid]

    return owner


def _map(ranges: list[IdRange], number: int, kind: str) -> int:
    shared = proc.outside(ranges, number)
    if shared >= 0:
        return shared
    last = max(inside + count for inside, _, count in ranges) - 1
    if number < last:
        raise UnsupportedError(
            f"the image has files of {kind} {number}, which the container's user namespace does not have",
            f"map that id, too: --{kind}map",
        )
    raise UnsupportedError(
        f"the image has files of {kind} {number}, and the container's user namespace ends at {last}",
        f"use --userns=auto:size={number + 1} or more, or widen your range in /etc/sub{kind}",
    )


def _selector(patch: str) -> Callable[[os.stat_result], bool]:
    """Which files a ``keep<U>.<G>`` patch holds. Whiteouts stay below: they have no owner anyone sees."""
    uid_text, _, gid_text = patch.removeprefix("keep").partition(".")
    uid, gid = int(uid_text), int(gid_text)

    def select(status: os.stat_result) -> bool:
        if status.st_mode & 0o170000 == 0o020000:
            return False
        return status.st_uid == uid or status.st_gid == gid

    return select

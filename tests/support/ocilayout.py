"""An image in an OCI layout as two plain values: its configuration, and the file tree that its layers add up to.

Independent of rl: Python's tarfile reads the layers, the rules for whiteouts are those of the image specification
(layer.md, "Whiteouts").
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """What a path is. ``content``: digest of a file, target of a link, numbers of a device."""

    kind: str
    mode: int
    uid: int
    gid: int
    content: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()
    mtime: int = 0


@dataclass
class Image:
    manifest: dict[str, Any]
    config: dict[str, Any]
    tree: dict[str, Entry]


def read(layout: Path) -> Image:
    """The only image of the layout."""
    index = json.loads((layout / "index.json").read_text())
    [descriptor] = index["manifests"]
    manifest = json.loads(_blob(layout, descriptor["digest"]))
    config = json.loads(_blob(layout, manifest["config"]["digest"]))
    tree: dict[str, Entry] = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(_blob(layout, layer["digest"]))) as tar:
            _apply(tree, tar)
    return Image(manifest, config, tree)


def _blob(layout: Path, digest: str) -> bytes:
    data = (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def _apply(tree: dict[str, Entry], tar: tarfile.TarFile) -> None:
    below = set(tree)  # a whiteout is about the layers below, whatever its place in the archive
    for member in tar:
        path = "/" + "/".join(part for part in member.name.split("/") if part not in ("", "."))
        parent, _, name = path.rpartition("/")
        if name == ".wh..wh..opq":
            _remove(tree, parent, below, itself=False)
        elif name.startswith(".wh."):
            _remove(tree, f"{parent}/{name[4:]}", below)
        else:
            entry = _entry(tree, tar, member)
            old = tree.get(path)
            if old and old.kind == "directory" and entry.kind != "directory":
                _remove(tree, path, set(tree))
            tree[path] = entry
            below.discard(path)


def _remove(tree: dict[str, Entry], path: str, below: set[str], itself: bool = True) -> None:
    for known in list(tree):
        if known in below and ((itself and known == path) or known.startswith(path + "/")):
            del tree[known]


def _entry(tree: dict[str, Entry], tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if member.islnk():
        return tree["/" + member.linkname.removeprefix("./").lstrip("/")]
    kind, content = "other", ""
    if member.isfile():
        file = tar.extractfile(member)
        assert file is not None
        kind, content = "file", hashlib.sha256(file.read()).hexdigest()
    elif member.isdir():
        kind = "directory"
    elif member.issym():
        kind, content = "symlink", member.linkname
    elif member.ischr() or member.isblk():
        kind, content = "device", f"{member.devmajor}:{member.devminor}"
    elif member.isfifo():
        kind = "fifo"
    xattrs = tuple(sorted(
        (key.removeprefix("SCHILY.xattr."), value) for key, value in member.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    ))
    mode = 0o777 if kind == "symlink" else member.mode & 0o7777
    return Entry(kind, mode, member.uid, member.gid, content, xattrs, int(member.mtime))

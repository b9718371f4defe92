"""zstd:chunked: the same tar for all, each file by itself for those who know the format; crc64; annotations."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tarfile
from base64 import b64decode
from hashlib import sha256
from typing import Any

import pytest
import zstandard

from rl.image import documents as d
from rl.image.chunked import Compressor, crc64
from rl.image.form import Form, written_as

PREFIX = d.BYTE_ANNOTATIONS[0]
BIG = random.Random(1).randbytes(700_001)


def _member(tar: tarfile.TarFile, name: str, data: bytes | None = None, **members: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data or b"")
    for key, value in members.items():
        setattr(info, key, value)
    tar.addfile(info, None if data is None else io.BytesIO(data))


def _layer(format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        _member(tar, "d", type=tarfile.DIRTYPE, mode=0o1755, uid=7, gid=8, mtime=1_700_000_000)
        _member(tar, "d/one", b"one\n", mode=0o644)
        _member(tar, "d/empty", b"")
        _member(tar, "d/" + "long/" * 40 + "name", b"x" * 512, mtime=2)
        _member(tar, "big", BIG)
        _member(tar, "link", type=tarfile.SYMTYPE, linkname="d/one")
        _member(tar, "hard", type=tarfile.LNKTYPE, linkname="d/one")
        _member(tar, "null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        if format == tarfile.PAX_FORMAT:
            _member(tar, "grün", b"y", mtime=-1.5, pax_headers={"SCHILY.xattr.user.a": "\udcff=\n", "atime": "5.25"})
        _member(tar, "fifo", type=tarfile.FIFOTYPE)
    return out.getvalue()


def _pack(data: bytes, largest: int = 1 << 18) -> tuple[bytes, dict[str, str]]:
    pieces, choice, at = [], random.Random(largest), 0
    compressor = Compressor(3)
    while at < len(data):
        count = choice.randint(1, largest)
        pieces.append(compressor.compress(data[at : at + count]))
        at += count
    pieces.append(compressor.flush())
    return b"".join(pieces), compressor.annotations


def _unpack(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()


def _table(packed: bytes, place: str) -> bytes:
    at, size, whole = (int(number) for number in place.split(":")[:3])
    found = zstandard.ZstdDecompressor().decompressobj().decompress(packed[at : at + size])
    assert len(found) == whole and packed[at - 8 : at] == struct.pack("<II", 0x184D2A50, size)
    return found


@pytest.mark.parametrize("largest", [1, 700, 1 << 18])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_all_that_was_put_in_comes_out_in_each_way(format: int, largest: int) -> None:
    layer = _layer(format)
    if largest == 1:
        layer = layer.replace(BIG + bytes(-len(BIG) % 512), b"")  # only for its size: what follows is cut off then
    packed, annotations = _pack(layer, largest)
    assert _unpack(packed) == layer
    if largest == 1:
        return
    table = _table(packed, annotations[f"{PREFIX}manifest-position"])
    at, size = (int(number) for number in annotations[f"{PREFIX}manifest-position"].split(":")[:2])
    assert annotations[f"{PREFIX}manifest-checksum"] == f"sha256:{sha256(packed[at : at + size]).hexdigest()}"
    document = json.loads(table)
    entries = {entry["name"]: entry for entry in document["entries"]}
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = {member.name + "/" * member.isdir(): member for member in tar}
        assert list(entries) == list(members) and document["version"] == 1
        for name, entry in entries.items():
            member = members[name]
            if member.isreg() and member.size:
                frame = packed[entry["offset"] : entry["endOffset"]]
                data = _unpack(frame)
                assert data == tar.extractfile(member).read() and entry["size"] == len(data)  # type: ignore[union-attr]
                assert entry["digest"] == f"sha256:{sha256(data).hexdigest()}"
            else:
                assert not entry.keys() & {"digest", "offset", "endOffset", "size"}
    assert entries["d/"] == {"type": "dir", "name": "d/", "mode": 0o1755, "uid": 7, "gid": 8, "modtime": "2023-11-14T22:13:20Z"}
    assert (entries["link"]["type"], entries["link"]["linkName"], entries["hard"]["type"]) == ("symlink", "d/one", "hardlink")
    assert (entries["null"]["type"], entries["null"]["devMajor"], entries["null"]["devMinor"]) == ("char", 1, 3)
    if format == tarfile.PAX_FORMAT:
        green = entries["grün"]
        assert (green["modtime"], green["accesstime"]) == ("1969-12-31T23:59:58.5Z", "1970-01-01T00:00:05.25Z")
        assert {key: b64decode(value) for key, value in green["xattrs"].items()} == {"user.a": b"\xff=\n"}


def test_the_archive_without_its_files() -> None:
    layer = _layer()
    packed, annotations = _pack(layer)
    at, size = (int(number) for number in annotations[f"{PREFIX}tarsplit-position"].split(":")[:2])
    document = json.loads(_table(packed, annotations[f"{PREFIX}manifest-position"]))
    assert document["tarSplitDigest"] == f"sha256:{sha256(packed[at : at + size]).hexdigest()}"
    lines = [json.loads(line) for line in _table(packed, annotations[f"{PREFIX}tarsplit-position"]).splitlines()]
    assert [line["position"] for line in lines] == list(range(len(lines)))
    files = {entry["name"]: entry for entry in document["entries"]}
    rebuilt = b""
    for line in lines:
        if line["type"] == 2:
            rebuilt += b64decode(line["payload"])
        elif line.get("size"):
            entry = files[line["name"]]
            data = _unpack(packed[entry["offset"] : entry["endOffset"]])
            assert b64decode(line["payload"]) == crc64(data).to_bytes(8, "big") and line["size"] == len(data)
            rebuilt += data
        else:
            assert line["payload"] is None
    assert rebuilt == layer
    places = [int(number) for key in ("manifest", "tarsplit") for number in annotations[f"{PREFIX}{key}-position"].split(":")]
    assert packed[-72:] == struct.pack("<II7Q", 0x184D2A50, 64, *places) + b"GNUlInUx"


def test_the_same_bytes_every_time() -> None:
    layer = _layer()
    assert _pack(layer, 100)[0] == _pack(layer, 1 << 18)[0]


def _odd(kind: str) -> bytes:
    layer = _layer(tarfile.GNU_FORMAT)
    if kind == "cut off in a file":
        return layer[: layer.index(BIG) + 100_000]
    if kind == "cut off in a header":
        return layer[:700]
    if kind == "no tar":
        return os.urandom(5000)
    if kind == "zeros without an end":
        return layer + bytes(20 << 20)
    out = io.BytesIO()
    options: dict[str, Any] = {"pax_headers": {"comment": "of all"}} if kind == "global" else {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT if options else tarfile.GNU_FORMAT, **options) as tar:
        _member(tar, "before", b"before")
        _member(tar, "\udcff" if kind == "name" else "x", b"data", type=b"S" if kind == "sparse" else tarfile.REGTYPE)
        _member(tar, "after", BIG)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["name", "sparse", "global", "no tar", "cut off in a file", "cut off in a header", "zeros without an end"])
def test_what_the_table_cannot_say_is_plain_zstd(kind: str) -> None:
    layer = _odd(kind)
    packed, annotations = _pack(layer)
    assert _unpack(packed) == layer and annotations == {}


def test_an_empty_layer() -> None:
    layer = bytes(10240)
    packed, annotations = _pack(layer)
    assert _unpack(packed) == layer
    assert json.loads(_table(packed, annotations[f"{PREFIX}manifest-position"]))["entries"] == []
    assert _pack(b"")[0].endswith(b"GNUlInUx")


def test_crc64() -> None:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xD800000000000000 if value & 1 else 0)
        table.append(value)

    def slow(data: bytes, before: int = 0) -> int:
        value = before ^ (1 << 64) - 1
        for byte in data:
            value = table[(value ^ byte) & 255] ^ value >> 8
        return value ^ (1 << 64) - 1

    assert crc64(b"123456789") == slow(b"123456789") == 0xB90956C775A41001
    choice = random.Random(5)
    for size in (*range(40), 63, 64, 65, 127, 511, 4096, 5000):
        data = choice.randbytes(size)
        assert crc64(data) == slow(data), size
        cut = choice.randint(0, size)
        assert crc64(data[cut:], crc64(data[:cut])) == slow(data)


def test_annotations_are_about_the_bytes_they_came_with() -> None:
    old = {f"{PREFIX}manifest-position": "1:2:3:1", "containerd.io/snapshot/stargz/toc.digest": "x", "mine": "kept"}
    layer = {"mediaType": d.OCI_LAYER + "+zstd", "digest": "sha256:a", "size": 1, "annotations": old}
    manifest = {"schemaVersion": 2, "mediaType": d.OCI_MANIFEST, "config": {"mediaType": d.OCI_CONFIG}, "layers": [layer]}

    def written(members: dict[str, Any], compression: str) -> dict[str, Any]:
        document = json.loads(written_as(json.dumps(manifest).encode(), manifest, [(members, compression)], "oci")[0])
        return dict(document["layers"][0])

    assert written({"digest": "sha256:a", "size": 1}, "zstd") == layer
    other = written({"digest": "sha256:b", "size": 2}, "gzip")
    assert other == {"mediaType": d.OCI_LAYER + "+gzip", "digest": "sha256:b", "size": 2, "annotations": {"mine": "kept"}}
    chunked = written({"digest": "sha256:b", "size": 2, "annotations": {f"{PREFIX}manifest-position": "9"}}, "zstd:chunked")
    assert chunked["annotations"] == {"mine": "kept", f"{PREFIX}manifest-position": "9"}
    assert chunked["mediaType"] == d.OCI_LAYER + "+zstd" and layer["annotations"] == old
    assert Form(compression="zstd:chunked", force=True).wanted("zstd") == "zstd:chunked"

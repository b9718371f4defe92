"""What an honest layer becomes on disk."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import tarfile

import pytest
from archives import END, Store, checksummed, directory, extended, hardlink, member, octal, pad, symlink

from rl.errors import RlError
from rl.storage import layers

SECOND = 1_000_000_000


def test_plain_files_directories_and_links(store: Store, many_ids: None) -> None:
    diff_id = store.unpack(
        directory("etc/", mode=0o750, uid=7, gid=8, mtime=5)
        + member("etc/passwd", b"root:x:0:0\n", mode=0o604, uid=1, gid=2, mtime=77)
        + member("bin/su", b"#!", mode=0o4755)
        + member("bin/wall", b"#!", mode=0o2755, uid=3, gid=5)
        + directory("tmp", mode=0o1777)
        + directory("srv", mode=0o2770, gid=9)
        + member("srv/inherits-not", b"x")
        + symlink("lib", "usr/lib", uid=4, gid=4, mtime=9)
        + hardlink("etc/passwd-", "etc/passwd")
        + member("run/pipe", kind=b"6", mode=0o620)
        + member(b"bad-\xff-name", b"bytes")
    )
    got = store.listing(diff_id)
    assert got["etc"]["mode"] == 0o750 and (got["etc"]["uid"], got["etc"]["gid"]) == (7, 8)
    assert got["etc"]["mtime"] == 5 * SECOND  # though files came into it later
    passwd = got["etc/passwd"]
    assert (passwd["mode"], passwd["uid"], passwd["gid"], passwd["mtime"]) == (0o604, 1, 2, 77 * SECOND)
    assert passwd["content"] == "root:x:0:0\n"
    assert passwd["inode"] == got["etc/passwd-"]["inode"] and passwd["links"] == 2
    assert got["bin/su"]["mode"] == 0o4755
    assert got["bin/wall"]["mode"] == 0o2755 and got["bin/wall"]["gid"] == 5  # set-id bits survive chown
    assert got["bin"]["mode"] == 0o755 and got["bin"]["uid"] == 0  # a parent the archive does not have
    assert got["tmp"]["mode"] == 0o1777
    assert got["srv"]["mode"] == 0o2770
    assert got["srv/inherits-not"]["gid"] == 0  # the archive's group, not the directory's
    assert (got["lib"]["kind"], got["lib"]["target"], got["lib"]["uid"], got["lib"]["mtime"]) == \
        ("link", "usr/lib", 4, 9 * SECOND)
    assert got["run/pipe"]["kind"] == "fifo" and got["run/pipe"]["mode"] == 0o620
    assert got[os.fsdecode(b"bad-\xff-name")]["content"] == "bytes"


def test_record_and_second_unpack(store: Store) -> None:
    diff_id = store.unpack(member("a", b"12345") + member("b", b"678"))
    assert layers.info(store.paths, diff_id) == {"diff_id": diff_id, "size": 8, "entries": 2, "skipped": 0}
    before = os.stat(store.tree(diff_id)).st_ino
    store.unpack(member("a", b"12345") + member("b", b"678"))
    assert os.stat(store.tree(diff_id)).st_ino == before
    assert store.leftovers() == [diff_id[7:]]


def test_whiteouts(store: Store) -> None:
    got = store.listing(store.unpack(
        member(".wh.gone") + member("d/.wh.also", b"")
        + directory("o") + member("o/.wh..wh..opq") + member("o/mine", b"1")
        + member("fresh/.wh..wh..opq") + member("p/.wh..wh..opq") + directory("p", mode=0o700)
    ))
    assert got["gone"]["kind"] == "whiteout" and got["d/also"]["kind"] == "whiteout"
    assert got["o"]["xattrs"]["user.overlay.opaque"] == "y"
    assert got["o/mine"]["content"] == "1"
    assert got["fresh"]["xattrs"]["user.overlay.opaque"] == "y"
    assert got["p"]["xattrs"]["user.overlay.opaque"] == "y" and got["p"]["mode"] == 0o700
    assert not [name for name in got if ".wh." in name]


@pytest.mark.parametrize("first", ["entry", "whiteout"])
def test_whiteout_beside_an_entry_of_the_same_layer_hides_what_is_below(store: Store, first: str) -> None:
    entries = directory("d") + member("d/new", b"n") + member("f", b"f")
    marks = member(".wh.d") + member(".wh.f")
    got = store.listing(store.unpack(entries + marks if first == "entry" else marks + entries))
    assert got["d"]["xattrs"]["user.overlay.opaque"] == "y"
    assert got["d/new"]["content"] == "n"
    assert got["f"]["content"] == "f"


def test_aufs_bookkeeping_is_left_out(store: Store) -> None:
    archive = directory(".wh..wh.plnk") + member(".wh..wh.plnk/1.2", b"x") + member(".wh..wh.aufs")
    got = store.listing(store.unpack(archive))
    assert list(got) == ["."]


def test_devices_are_skipped_and_counted_with_their_links(store: Store) -> None:
    diff_id = store.unpack(
        member("dev/null", kind=b"3", device=(1, 3)) + member("dev/sda", kind=b"4", device=(8, 0))
        + member("dev/zero-zero", kind=b"3") + hardlink("dev/nil", "dev/null") + member("f", b"")
    )
    assert layers.info(store.paths, diff_id)["skipped"] == 4  # type: ignore[typeddict-item]
    assert set(store.listing(diff_id)) == {".", "f"}


def test_later_entries_replace_earlier_ones(store: Store) -> None:
    got = store.listing(store.unpack(
        member("f", b"old") + member("f", b"new")
        + directory("d") + member("d/sub/x", b"x") + member("d", b"file now")
        + member("g", b"") + directory("g", mode=0o711)
        + symlink("l", "a") + symlink("l", "b")
        + directory("same", mode=0o700) + member("same/kept", b"k") + directory("same", mode=0o755, mtime=3)
        + member("h", b"h") + member("i", b"i") + hardlink("i", "h")
    ))
    assert got["f"]["content"] == "new"
    assert got["d"]["content"] == "file now" and "d/sub" not in got
    assert got["g"]["kind"] == "dir" and got["g"]["mode"] == 0o711
    assert got["l"]["target"] == "b"
    assert got["same"]["mode"] == 0o755 and "same/kept" in got and got["same"]["mtime"] == 3 * SECOND
    assert got["i"]["content"] == "h" and got["i"]["links"] == 2


def test_root_directory_entry(store: Store, many_ids: None) -> None:
    got = store.listing(store.unpack(directory("./", mode=0o711, uid=5, mtime=8) + member("./usr/./x", b"")))
    assert (got["."]["mode"], got["."]["uid"], got["."]["mtime"]) == (0o711, 5, 8 * SECOND)
    assert "usr/x" in got


def test_parents_through_links_stay_inside(store: Store) -> None:
    got = store.listing(store.unpack(
        directory("usr") + directory("usr/lib") + symlink("lib", "usr/lib") + member("lib/a", b"a")
        + symlink("abs", "/usr/lib") + member("abs/b", b"b")
        + symlink("dangling", "not/there/yet") + member("dangling/c", b"c")
        + directory("x") + symlink("x/up", "../../../usr") + member("x/up/d", b"d")
    ))
    assert got["usr/lib/a"]["content"] == "a" and got["usr/lib/b"]["content"] == "b"
    assert got["not/there/yet/c"]["content"] == "c"
    assert got["usr/d"]["content"] == "d"


def test_xattrs(store: Store) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20" + b"\0" * 14  # cap_net_raw=ep, version 2
    pax = {
        "SCHILY.xattr.user.note": b"a\0b\nc",
        "LIBARCHIVE.xattr.user.from%20bsd": base64.b64encode(b"tar").rstrip(b"="),
        "SCHILY.xattr.security.capability": capability,
        "SCHILY.xattr.security.selinux": b"system_u:object_r:bin_t:s0",
        "SCHILY.xattr.trusted.secret": b"x",
        "SCHILY.xattr.user.overlay.redirect": b"/etc",
        "SCHILY.xattr.user.rl.owner": b"0:0:777",
    }
    got = store.listing(store.unpack(
        member("ping", b"x", pax=pax, mode=0o755) + directory("d", pax={"SCHILY.xattr.user.note": b"dir"})
    ))
    assert got["ping"]["xattrs"] == {
        "user.note": "a\0b\nc", "user.from bsd": "tar", "security.capability": capability.decode("latin-1"),
    }
    assert got["d"]["xattrs"] == {"user.note": "dir"}


def test_pax_fields_override(store: Store, many_ids: None) -> None:
    long = "long/" + "x" * 200 + "/" + "é" * 100
    got = store.listing(store.unpack(
        member("short", b"12345", size=0, pax={"path": long.encode(), "size": b"5", "uid": b"11", "gid": b"12",
                                               "mtime": b"1.5", "atime": b"3"})
        + symlink("l", "x", pax={"linkpath": b"t" * 3000}) + member("neg", b"", pax={"mtime": b"-2.25"})
        + extended({"mtime": b"42"}, b"g") + member("global", b"") + member("own", b"", pax={"mtime": b"43"})
    ))
    assert got[long]["content"] == "12345" and (got[long]["uid"], got[long]["gid"]) == (11, 12)
    assert got[long]["mtime"] == 1_500_000_000
    assert got["l"]["target"] == "t" * 3000
    assert got["neg"]["mtime"] == -2_250_000_000
    assert got["global"]["mtime"] == 42 * SECOND and got["own"]["mtime"] == 43 * SECOND


def test_gnu_long_names_ustar_prefix_v7_and_base256(store: Store, many_ids: None) -> None:
    gnu = b"ustar  \0"
    name, target = b"n" * 150 + b"/" + b"m" * 150, b"t" * 400
    got = store.listing(store.unpack(
        member("././@LongLink", name + b"\0", kind=b"L", magic=gnu) + member("cut", b"long", magic=gnu)
        + member("././@LongLink", target + b"\0", kind=b"K", magic=gnu) + symlink("sl", "cut", magic=gnu)
        + member("tail", b"p", prefix=b"pre/fix")
        + member("v7dir/", kind=b"\0", magic=b"\0" * 8) + member("v7file", b"7", kind=b"\0", magic=b"\0" * 8)
        + member("contiguous", b"c", kind=b"7") + member("future", b"", mtime=1 << 34) + member("past", b"", mtime=-10)
        + member("label", kind=b"V", magic=gnu)
    ))
    assert got[name.decode()]["content"] == "long"
    assert got["sl"]["target"] == target.decode()
    assert got["pre/fix/tail"]["content"] == "p"
    assert got["v7dir"]["kind"] == "dir" and got["v7file"]["content"] == "7"
    assert got["contiguous"]["content"] == "c"
    assert got["past"]["mtime"] == -10 * SECOND
    assert "label" not in got


SPANS = [(0, 512), (1 << 20, 700), (3 << 20, 0)]
SPARSE_DATA = b"A" * 512 + b"B" * 700
SPARSE_SIZE = 3 << 20


def sparse_gnu() -> bytes:
    fields = b"".join(octal(a, 12) + octal(b, 12) for a, b in SPANS[:2]).ljust(96, b"\0")
    head = bytearray(member("s", b"", kind=b"S", magic=b"ustar  \0", size=len(SPARSE_DATA))[:512])
    head[386:482] = fields
    head[483:495] = octal(SPARSE_SIZE, 12)
    return checksummed(bytes(head)) + pad(SPARSE_DATA)


def sparse_gnu_extended() -> bytes:
    """More spans than the header holds: 30 of one byte each."""
    spans = [(i * 4096, 1) for i in range(30)] + [(SPARSE_SIZE, 0)]
    pack = [octal(a, 12) + octal(b, 12) for a, b in spans]
    head = bytearray(member("s", b"", kind=b"S", magic=b"ustar  \0", size=30)[:512])
    head[386:482] = b"".join(pack[:4])
    head[482] = 1
    head[483:495] = octal(SPARSE_SIZE, 12)
    one = b"".join(pack[4:25]).ljust(504, b"\0") + b"\1" + b"\0" * 7
    two = b"".join(pack[25:]).ljust(512, b"\0")
    return checksummed(bytes(head)) + one + two + pad(b"z" * 30)


def sparse_pax(version: str) -> bytes:
    if version == "0.0":
        pairs = [("GNU.sparse.size", b"%d" % SPARSE_SIZE), ("GNU.sparse.numblocks", b"3")]
        for offset, length in SPANS:
            pairs += [("GNU.sparse.offset", b"%d" % offset), ("GNU.sparse.numbytes", b"%d" % length)]
        return extended(pairs) + member("s", SPARSE_DATA)
    if version == "0.1":
        numbers = ",".join(f"{a},{b}" for a, b in SPANS).encode()
        return extended({"GNU.sparse.size": b"%d" % SPARSE_SIZE, "GNU.sparse.name": b"s", "GNU.sparse.map": numbers}) \
            + member("GNUSparseFile.1/s", SPARSE_DATA)
    text = f"{len(SPANS)}\n" + "".join(f"{a}\n{b}\n" for a, b in SPANS)
    return extended({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": b"s",
                     "GNU.sparse.realsize": b"%d" % SPARSE_SIZE}) \
        + member("GNUSparseFile.1/s", pad(text.encode()) + SPARSE_DATA)


@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files(store: Store, version: str) -> None:
    archive = sparse_gnu() if version == "gnu" else sparse_pax(version)
    diff_id = store.unpack(archive + member("after", b"in step"))
    got = store.listing(diff_id)
    assert got["s"]["size"] == SPARSE_SIZE and got["s"]["blocks"] * 512 < 64 << 10
    assert got["after"]["content"] == "in step"
    with open(f"{store.tree(diff_id)}/s", "rb") as file:
        content = file.read()
    assert content[:512] == b"A" * 512 and content[1 << 20 : (1 << 20) + 700] == b"B" * 700
    assert content.count(b"\0") == SPARSE_SIZE - 1212


def test_sparse_map_in_extension_blocks(store: Store) -> None:
    diff_id = store.unpack(sparse_gnu_extended() + member("after", b"in step"))
    with open(f"{store.tree(diff_id)}/s", "rb") as file:
        content = file.read()
    assert len(content) == SPARSE_SIZE and content.count(b"z") == 30 and content[29 * 4096] == ord("z")
    assert store.listing(diff_id)["after"]["content"] == "in step"


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
def test_archives_of_gnu_tar_come_out_as_gnu_tar_unpacks_them(store: Store, form: str) -> None:
    source = f"{store.base}/source"
    os.makedirs(f"{source}/d/e")
    for name, size in (("small", 10), ("d/big", 3 << 20), ("d/e/empty", 0)):
        with open(f"{source}/{name}", "wb") as file:
            file.write(os.urandom(size))
    with open(f"{source}/huge", "wb") as file:
        file.seek(5 << 30)
        file.write(b"end")
    os.symlink("small", f"{source}/link")
    os.link(f"{source}/small", f"{source}/d/hard")
    os.mkfifo(f"{source}/fifo")
    os.chmod(f"{source}/d", 0o2751)
    arguments = ["--sparse"] if form in ("gnu", "pax") else ["--exclude=huge", "--exclude=fifo"]
    archive = subprocess.run(
        ["tar", f"--format={form}", *arguments, "--owner=0", "--group=0", "-C", source, "-cf", "-", "."],
        check=True, capture_output=True).stdout
    got = store.listing(store.unpack(archive, b""))
    for base, directories, files in os.walk(source):
        for name in directories + files:
            path = os.path.relpath(f"{base}/{name}", source)
            if path in ("huge", "fifo") and form in ("ustar", "v7"):
                continue
            status = os.lstat(f"{source}/{path}")
            assert got[path]["mode"] == status.st_mode & 0o7777, path
            assert got[path]["size"] == status.st_size or got[path]["kind"] == "dir", path
            assert abs(got[path]["mtime"] - status.st_mtime_ns) < SECOND, path
            if got[path]["kind"] == "file" and status.st_size < 4096:
                with open(f"{source}/{path}", "rb") as file:
                    assert got[path]["content"].encode("latin-1") == file.read()
    assert got["d/hard"]["inode"] == got["small"]["inode"]
    if form in ("gnu", "pax"):
        assert got["huge"]["blocks"] < 1000


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_pythons_tarfile(store: Store, form: int) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for index in range(300):
            entry = tarfile.TarInfo(f"d{index % 7}/{'n' * (index % 90)}{index}")
            entry.size = index * 37
            archive.addfile(entry, io.BytesIO(bytes([index % 256]) * entry.size))
    got = store.listing(store.unpack(raw.getvalue(), b""))
    for index in range(300):
        entry_got = got[f"d{index % 7}/{'n' * (index % 90)}{index}"]
        assert entry_got["size"] == index * 37
        if index * 37 < 4096:
            assert entry_got["content"] == chr(index % 256) * (index * 37)


def test_every_compression(store: Store) -> None:
    import bz2
    import gzip
    import lzma

    archive = member("f", os.urandom(3000) + b"\0" * 2_000_000) + END
    half = len(archive) // 2
    forms = {
        "plain": archive, "gzip": gzip.compress(archive), "members": gzip.compress(archive[:half])
        + gzip.compress(archive[half:]), "padded": gzip.compress(archive) + b"\0" * 3000,
        "bzip2": bz2.compress(archive), "xz": lzma.compress(archive),
    }
    zstandard = pytest.importorskip("zstandard")
    forms["zstd"] = zstandard.compress(archive)
    skippable = b"\x50\x2a\x4d\x18\3\0\0\0abc"
    forms["frames"] = zstandard.compress(archive[:half]) + skippable + zstandard.compress(archive[half:])
    from rl.storage.layers import layer_dir
    from rl.storage.trash import discard
    from rl.storage.unpack import unpack_layer

    for name, data in forms.items():
        _, diff_id = store.blob(archive)
        path = f"{store.base}/{name}"
        with open(path, "wb") as file:
            file.write(data)
        store.inside(lambda path=path, diff_id=diff_id: unpack_layer(store.paths, path, diff_id))
        assert store.listing(diff_id)["f"]["size"] == 2_003_000, name
        discard(store.paths, layer_dir(store.paths, diff_id))


def test_zlib_stands_in_for_isal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.storage import inflate

    monkeypatch.setattr(inflate, "_gzip_factory", lambda: inflate._Zlib)
    diff_id = store.unpack(member("f", b"x" * 3_000_000))
    assert store.listing(diff_id)["f"]["size"] == 3_000_000


def test_archives_without_an_end_mark_or_with_more_behind_it(store: Store) -> None:
    assert store.listing(store.unpack(member("a", b"1"), b""))["a"]["content"] == "1"
    assert store.listing(store.unpack(member("b", b"1"), END + b"\0" * 9216))["b"]["content"] == "1"
    assert set(store.listing(store.unpack(END, b""))) == {"."}
    assert set(store.listing(store.unpack(b"", b""))) == {"."}


def test_ids_beyond_the_map(store: Store) -> None:
    from rl.storage.driver import default_key

    if default_key(store.paths) == "single":
        diff_id = store.unpack(member("f", b"x", uid=1 << 20, gid=5, mode=0o640))
        assert store.listing(diff_id)["f"]["xattrs"]["user.rl.owner"] == f"{1 << 20}:5:640"
        return
    if os.getuid() == 0:
        pytest.skip("root maps every id")
    with pytest.raises(RlError) as caught:
        store.unpack(member("f", b"x", uid=1 << 20))
    assert "1048576" in caught.value.message and "/etc/subuid" in caught.value.hint
    assert store.leftovers() == []

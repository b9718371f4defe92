"""Archives that are out for harm: refused with one error, nothing outside the staging directory, nothing left."""

from __future__ import annotations

import gzip
import os

import pytest
from archives import END, Store, checksummed, directory, extended, hardlink, member, octal, symlink

from rl.errors import RlError, VerificationError
from rl.storage.unpack import unpack_layer


def outside(store: Store) -> str:
    path = f"{store.base}/outside"
    os.makedirs(path, exist_ok=True)
    return path


def pax(**more: bytes) -> bytes:
    return extended({key.replace("_", "."): value for key, value in more.items()})


def loop() -> bytes:
    return symlink("a", "b") + symlink("b", "a") + member("a/x", b"")


REFUSED = {
    "dotdot": (member("../evil", b"x"), "points outside"),
    "dotdot inside": (member("a/../../evil", b"x"), "points outside"),
    "dotdot directory": (directory(".."), "points outside"),
    "dotdot by pax": (member("ok", b"x", pax={"path": b"../evil"}), "points outside"),
    "dotdot by long name": (member("L", b"../evil\0", kind=b"L") + member("ok", b"x"), "points outside"),
    "whiteout of dotdot": (member(".wh...", b""), "names no file"),
    "whiteout of nothing": (member("d/.wh.", b""), "names no file"),
    "hard link outside": (hardlink("h", "../../../../etc/passwd"), "points outside"),
    "hard link to a host file": (hardlink("h", "/etc/passwd"), "does not have"),
    "hard link through a link": (symlink("s", "/etc") + hardlink("h", "s/passwd"), "does not have"),
    "hard link to a directory": (directory("d") + hardlink("h", "d"), "hard link to a directory"),
    "hard link to the root": (hardlink("h", "/"), "hard link to a directory"),
    "hard link to itself": (hardlink("h", "h"), "to itself"),
    "hard link to a whiteout": (member(".wh.w") + hardlink("h", "w"), "whiteout"),
    "root replaced by a file": (member("./", kind=b"2", link="/etc"), "root directory"),
    "a file as a parent": (member("f", b"x") + member("f/below", b"x"), "not a directory"),
    "links in a circle": (loop(), ""),
    "component too long": (member("x", b"", pax={"path": b"a" * 256}), "too long"),
    "path too long": (member("x", b"", pax={"path": b"d/" * 2100 + b"x"}), "too long"),
    "NUL in a name": (member("x", b"", pax={"path": b"a\0b"}), "NUL"),
    "empty link": (symlink("l", ""), "impossible target"),
    "endless link": (symlink("l", "x", pax={"linkpath": b"t" * 5000}), "impossible target"),
    "unknown type": (member("x", kind=b"Q"), "unknown type"),
    "negative size": (member("x", b"", size=-5), "claims a size"),
    "gigantic size": (member("x", b"", size=1 << 70), "claims a size"),
    "gigantic pax size": (member("x", b"", pax={"size": b"9" * 25}), "number"),
    "size beyond the stream": (member("x", b"abc", size=1 << 40), "truncated"),
    "header too long": (member("L", b"x" * (2 << 20), kind=b"L") + member("x"), "extended header"),
    "bad checksum": (b"x" * 512, "damaged"),
    "letters in a number": (checksummed(member("x")[:100] + b"zzzzzzz\0" + member("x")[108:512]), "number"),
    "broken pax record": (member("p", b"99 path=x\n", kind=b"x") + member("x"), "extended header"),
    "pax record without end": (member("p", b"9 path=xx", kind=b"x") + member("x"), "extended header"),
    "bad base64": (member("x", b"", pax={"LIBARCHIVE.xattr.user.a": b"a"}), "base64"),
    "sparse beyond its size": (
        pax(GNU_sparse_size=b"10", GNU_sparse_map=b"0,20") + member("x", b"y" * 20),
        "sparse map",
    ),
    "sparse out of order": (pax(GNU_sparse_size=b"99", GNU_sparse_map=b"9,1,0,1") + member("x", b"yy"), "sparse map"),
    "sparse with half a span": (pax(GNU_sparse_size=b"99", GNU_sparse_map=b"9") + member("x", b"yy"), "sparse map"),
    "sparse wants more than is there": (
        pax(GNU_sparse_size=b"99", GNU_sparse_map=b"0,50") + member("x", b"yy"),
        "sparse",
    ),
    "sparse map without end": (
        pax(GNU_sparse_major=b"1", GNU_sparse_minor=b"0", GNU_sparse_realsize=b"9") + member("x", b"1" * 512),
        "sparse map"),
    "sparse map of millions": (
        pax(GNU_sparse_major=b"1", GNU_sparse_minor=b"0", GNU_sparse_realsize=b"9") + member("x", b"99999999\n"),
        "spans"),
    "sparse of eight exbibytes": (
        pax(GNU_sparse_size=b"%d" % ((1 << 62) - 1), GNU_sparse_map=b"0,2") + member("x", b"yy"), ""),
    "wild mtime": (member("x", b"", pax={"mtime": b"nan"}), "time"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(store: Store, name: str) -> None:
    archive, words = REFUSED[name]
    before = sorted(os.listdir(store.base))
    with pytest.raises(VerificationError) as caught:
        store.unpack(member("first", b"ok") + archive)
    assert words in caught.value.message
    assert store.leftovers() == []
    after = [entry for entry in sorted(os.listdir(store.base)) if not entry.startswith("blob")]
    assert after == before and os.listdir(store.paths.data).count("evil") == 0


def test_links_do_not_lead_outside(store: Store) -> None:
    target = outside(store)
    mode = os.stat(target).st_mode
    up = "../" * 30
    diff_id = store.unpack(
        symlink("abs", target) + member("abs/one", b"x")
        + symlink("rel", up + target.lstrip("/")) + member("rel/two", b"x")
        + symlink("magic", "/proc/self/root") + member("magic/three", b"x")
        + symlink("last", f"{target}/four") + member("last", b"replaces the link")
        + symlink("dirlink", target) + directory("dirlink", mode=0o777)
    )
    assert os.listdir(target) == []
    assert os.stat(target).st_mode == mode
    got = store.listing(diff_id)
    assert got[target.lstrip("/") + "/one"]["content"] == "x" and got["last"]["kind"] == "file"
    assert got["dirlink"]["kind"] == "dir"


def test_a_link_planted_after_its_directory_was_used(store: Store) -> None:
    """The parent is kept open: replacing it must not leave a way out, nor must restoring its time."""
    target = outside(store)
    os.utime(target, (1, 1))
    store.unpack(
        directory("d", mtime=99) + directory("d/e", mtime=99) + member("d/e/x", b"1")
        + symlink("d", target) + member("d/y", b"2") + directory("d/e", mtime=5)
    )
    assert os.listdir(target) == [] and os.stat(target).st_mtime == 1


def test_absolute_names_stay_inside(store: Store) -> None:
    path = f"{store.base}/outside-file"
    got = store.listing(store.unpack(member(path, b"x") + member("//etc//passwd", b"y")))
    assert not os.path.exists(path)
    assert got["etc/passwd"]["content"] == "y"


def test_wrong_digest(store: Store) -> None:
    path, _ = store.blob(member("f", b"x") + END)
    wrong = "sha256:" + "0" * 64
    with pytest.raises(VerificationError, match="digest"):
        store.inside(lambda: unpack_layer(store.paths, path, wrong))
    assert store.leftovers() == []


@pytest.mark.parametrize("diff_id", ["", "sha256:", "sha256:../../x", "md5:" + "0" * 32, "sha256:" + "G" * 64])
def test_digests_that_are_none(store: Store, diff_id: str) -> None:
    path, _ = store.blob(END)
    with pytest.raises(VerificationError, match="digest"):
        store.inside(lambda: unpack_layer(store.paths, path, diff_id))


@pytest.mark.parametrize("cut", [1, 100, 5000, 60000])
@pytest.mark.parametrize("kind", ["gzip", "plain", "zstd", "xz"])
def test_truncated(store: Store, cut: int, kind: str) -> None:
    import lzma

    archive = member("f", os.urandom(60_000)) + member("g", os.urandom(60_000)) + END
    if kind == "zstd":
        data = pytest.importorskip("zstandard").compress(archive)
    else:
        data = {"gzip": gzip.compress, "plain": bytes, "xz": lzma.compress}[kind](archive)
    _, diff_id = store.blob(archive)
    path = f"{store.base}/cut"
    with open(path, "wb") as file:
        file.write(data[:-cut])
    with pytest.raises(VerificationError):
        store.inside(lambda: unpack_layer(store.paths, path, diff_id))
    assert store.leftovers() == []


@pytest.mark.parametrize("position", [11, 5000, -4])
def test_damaged_gzip(store: Store, position: int) -> None:
    archive = member("f", os.urandom(60_000)) + END
    data = bytearray(gzip.compress(archive))
    data[position] ^= 0xFF
    path, diff_id = store.blob(archive)
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(VerificationError):
        store.inside(lambda: unpack_layer(store.paths, path, diff_id))
    assert store.leftovers() == []


def test_too_many_entries(store: Store) -> None:
    archive = b"".join(directory(f"d{index}") for index in range(50))
    with pytest.raises(VerificationError, match="40 entries"):
        store.unpack(archive, max_entries=40)
    store.unpack(archive, max_entries=50)


def test_bomb(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.storage import inflate

    monkeypatch.setattr(inflate, "BOMB_BYTES", 1 << 20)
    monkeypatch.setattr(inflate, "BOMB_RATIO", 100)
    with pytest.raises(VerificationError, match="bomb"):
        store.unpack(member("zeros", b"\0" * (8 << 20)))
    assert store.leftovers() == []
    store.unpack(member("noise", os.urandom(3 << 20)))


def test_blob_that_is_not_there(store: Store) -> None:
    with pytest.raises(RlError, match="unpack layer"):
        store.inside(lambda: unpack_layer(store.paths, f"{store.base}/none", "sha256:" + "1" * 64))


def test_old_sparse_header_with_an_endless_map(store: Store) -> None:
    head = bytearray(member("s", b"", kind=b"S", magic=b"ustar  \0", size=0)[:512])
    head[482] = 1
    head[483:495] = octal(1, 12)
    more = (b"\0" * 504 + b"\1" + b"\0" * 7) * 50
    with pytest.raises(VerificationError, match="no end"):
        store.unpack(checksummed(bytes(head)) + more, b"")

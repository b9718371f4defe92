"""Archives: every shape and compression read, what is damaged or hostile refused, both ways with other tools."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from image_lab import MakeImage, digest_of, layer_tar

from rl.engine.context import Engine
from rl.engine.import_ import import_
from rl.engine.load import load
from rl.engine.rmi import rmi
from rl.engine.save import save
from rl.errors import ConflictError, NotFoundError, RlError, UsageError, VerificationError
from rl.image import store
from rl.image.archive import platform_score, read
from rl.image.content import ContentStore
from rl.image.save import FORMATS
from rl.image.streams import Source, decompressed
from rl.image.tarstream import BLOCK, END, TarReader, header, padding

LAYER = layer_tar({"etc/motd": b"hello\n", "big": bytes(100_000)})
CONFIG = json.dumps({
    "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
    "rootfs": {"type": "layers", "diff_ids": [digest_of(LAYER)]},
}).encode()  # fmt: skip


def archive(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            made.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def docker(layer: bytes = LAYER, config: bytes = CONFIG, **entry: Any) -> dict[str, bytes]:
    described = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l.tar"], **entry}]
    return {"l.tar": layer, "c.json": config, "manifest.json": json.dumps(described).encode()}


def oci(layer: bytes = LAYER, **descriptor: Any) -> dict[str, bytes]:
    manifest = json.dumps({
        "schemaVersion": 2,
        "config": {"digest": digest_of(CONFIG), "size": len(CONFIG)},
        "layers": [{"digest": digest_of(layer), "size": len(layer)}],
    }).encode()  # fmt: skip
    entry = {"digest": digest_of(manifest), "size": len(manifest), **descriptor}
    blobs = {f"blobs/sha256/{digest_of(data)[7:]}": data for data in (layer, CONFIG, manifest)}
    index = {"schemaVersion": 2, "manifests": [entry]}
    return {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode(), **blobs}


def put(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "archive"
    path.write_bytes(data)
    return str(path)


COMPRESSIONS = {"plain": bytes, "gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_docker_archive(engine: Engine, tmp_path: Path, compression: str) -> None:
    names = load(engine, put(tmp_path, COMPRESSIONS[compression](archive(docker()))))
    assert names == ["docker.io/library/app:1"]  # Docker's short names are docker.io's
    record = store.find(engine.paths, "app:1")
    assert record["id"] == digest_of(CONFIG)[7:] and record["layers"] == [digest_of(LAYER)]
    assert Path(f"{engine.paths.layers}/{digest_of(LAYER)[7:]}/fs/etc/motd").read_bytes() == b"hello\n"


def test_zstd_archive(engine: Engine, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    assert load(engine, put(tmp_path, zstandard.ZstdCompressor().compress(archive(docker()))))


def test_compressed_and_linked_layers_and_several_images(engine: Engine, tmp_path: Path) -> None:
    files = docker(gzip.compress(LAYER), RepoTags=["q.io/a:1", "q.io/a:2"], Layers=["x/layer.tar"])
    files["manifest.json"] = json.dumps([
        *json.loads(files["manifest.json"]), {"Config": "c.json", "RepoTags": None, "Layers": ["l.tar"]},
    ]).encode()  # fmt: skip
    names = load(engine, put(tmp_path, archive(files, {"x/layer.tar": "../y/layer.tar", "y/layer.tar": "../l.tar"})))
    assert names == ["q.io/a:1", "q.io/a:2", f"sha256:{digest_of(CONFIG)[7:]}"]
    assert [r["name"] for r in store.list_images(engine.paths)[0]].count("") == 0


def test_from_a_pipe(engine: Engine) -> None:
    out, into = os.pipe()
    if os.fork() == 0:
        os.close(out)
        os.write(into, gzip.compress(archive(docker())))
        os._exit(0)
    os.close(into)
    assert load(engine, out) == ["docker.io/library/app:1"]
    os.close(out)
    os.wait()


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"org.opencontainers.image.ref.name": "q.io/a/b:c"}, "q.io/a/b:c"),
        ({"org.opencontainers.image.ref.name": "b:c"}, "localhost/b:c"),
        ({"org.opencontainers.image.ref.name": "1.0", "io.containerd.image.name": "b:c"}, "docker.io/library/b:c"),
        ({"org.opencontainers.image.ref.name": "latest"}, "localhost/latest:latest"),
        ({}, f"sha256:{digest_of(CONFIG)[7:]}"),
    ],
)
def test_oci_archive_names(engine: Engine, tmp_path: Path, annotations: dict[str, str], name: str) -> None:
    assert load(engine, put(tmp_path, archive(oci(annotations=annotations)))) == [name]


def test_nested_index_by_platform(engine: Engine, tmp_path: Path) -> None:
    files = oci()
    inner = json.loads(files["index.json"])["manifests"][0]
    absent = {"digest": "sha256:" + "0" * 64, "size": 5}
    index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {**absent, "platform": {"os": "unknown", "architecture": "unknown"}},
        {**absent, "platform": {"os": "linux", "architecture": "s390x"}},
        {**inner, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
    ]}).encode()  # fmt: skip
    top = {"digest": digest_of(index), "size": len(index), "mediaType": "application/vnd.oci.image.index.v1+json"}
    files[f"blobs/sha256/{digest_of(index)[7:]}"] = index
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    path = put(tmp_path, archive(files))
    (image,) = read(engine.paths, path, ("linux", "arm64", "v8"))
    assert image.manifest == inner["digest"] and image.index == digest_of(index)
    with pytest.raises(VerificationError, match="no image for linux/riscv64"):
        read(engine.paths, path, ("linux", "riscv64", ""))


def test_platform_scores() -> None:
    def score(platform: str, wanted: tuple[str, str, str]) -> int | None:
        system, architecture, *variant = platform.split("/")
        return platform_score({"os": system, "architecture": architecture, "variant": "".join(variant)}, wanted)

    assert score("linux/amd64", ("linux", "amd64", "")) == 0
    assert score("linux/arm64", ("linux", "amd64", "")) is None
    assert score("linux/arm/v6", ("linux", "arm", "v7")) is not None
    assert score("linux/arm/v7", ("linux", "arm", "v6")) is None
    assert platform_score(None, ("linux", "amd64", "")) is not None


def broken(name: str) -> bytes:
    """One hostile or damaged archive by name."""
    good = archive(docker())
    evil = oci()
    evil[next(name for name in evil if name.startswith("blobs") and evil[name] == LAYER)] = LAYER[:-1] + b"x"
    fifo = tarfile.TarInfo("pipe")
    fifo.type = tarfile.FIFOTYPE
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = b"x", 1 << 30
    return {
        "empty": b"",
        "text": b"root:x:0:0:root:/root:/bin/sh\n" * 100,
        "a root file system": LAYER,
        "truncated": good[: len(good) // 2],
        "truncated gzip": gzip.compress(good)[:-100],
        "truncated in a header": good[: BLOCK + 100],
        "damaged gzip": gzip.compress(good)[:300] + b"\xff" * 50 + gzip.compress(good)[350:],
        "climbing name": archive({"../../evil": b"x", **docker()}),
        "absolute name": archive({"/etc/evil": b"x", **docker()}),
        "climbing link": archive(docker(Layers=["k"]), {"k": "../../etc/passwd"}),
        "absolute link": archive(docker(Layers=["k"]), {"k": "/etc/passwd"}),
        "link loop": archive(docker(Layers=["k"]), {"k": "j", "j": "k"}),
        "fifo": fifo.tobuf() + good,
        "giant pax header": pax.tobuf() + good,
        "wrong checksum": good[:BLOCK] + b"y" + good[BLOCK:],
        "missing layer": archive(docker(Layers=["nosuch.tar"])),
        "missing config": archive(docker(Config="../../etc/passwd")),
        "layer is another": archive(docker(layer_tar({"other": b""}))),
        "layer is no tar": archive(docker(b"x" * 2000)),
        "config is no JSON": archive(docker(config=b"{")),
        "config without diff_ids": archive(docker(config=b'{"rootfs": {}}')),
        "two layers, one diff id": archive(docker(Layers=["l.tar", "l.tar"])),
        "manifest is no list": archive({**docker(), "manifest.json": b"{}"}),
        "manifest is no JSON": archive({**docker(), "manifest.json": b"["}),
        "manifest of strings": archive({**docker(), "manifest.json": b'["x"]'}),
        "bad tag": archive(docker(RepoTags=["BAD NAME"])),
        "tags are numbers": archive(docker(RepoTags=[1])),
        "blob with another digest": archive(evil),
        "index without manifests": archive({**oci(), "index.json": b"{}"}),
        "descriptor without digest": archive(oci(digest="../../x")),
        "blob with another size": archive(oci(size=1)),
        "docker before 1.10": archive({"repositories": b"{}", "abc/layer.tar": LAYER, "abc/json": b"{}"}),
    }[name]


NAMES = [
    "empty", "text", "a root file system", "truncated", "truncated gzip", "truncated in a header", "damaged gzip",
    "climbing name", "absolute name", "climbing link", "absolute link", "link loop", "fifo", "giant pax header",
    "wrong checksum", "missing layer", "missing config", "layer is another", "layer is no tar", "config is no JSON",
    "config without diff_ids", "two layers, one diff id", "manifest is no list", "manifest is no JSON",
    "manifest of strings", "bad tag", "tags are numbers", "blob with another digest", "index without manifests",
    "descriptor without digest", "blob with another size", "docker before 1.10",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_refused_and_nothing_left(engine: Engine, tmp_path: Path, name: str) -> None:
    with pytest.raises(VerificationError) as caught:
        load(engine, put(tmp_path, broken(name)))
    assert caught.value.message
    assert store.list_images(engine.paths) == ([], [])
    assert ContentStore(engine.paths).digests() == []
    partial = f"{engine.paths.content}/partial"
    assert not os.path.exists(partial) or os.listdir(partial) == []
    assert not [entry for entry in os.listdir(engine.paths.layers) if len(entry) == 64]


def test_missing_file(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load(engine, str(tmp_path / "nosuch"))
    with pytest.raises(VerificationError, match="not a saved image"):
        load(engine, str(tmp_path))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("changed", [False, True])
def test_saved_and_loaded_again(engine: Engine, tmp_path: Path, kind: str, changed: bool) -> None:
    source = tmp_path / "root.tar.gz"
    source.write_bytes(gzip.compress(LAYER) if not changed else LAYER)
    image = import_(engine, str(source), "q.io/app:1", changes=["ENV A=1"], message="made")
    target = str(tmp_path / "out")
    save(engine, ["q.io/app:1", "second:2"] if not kind.endswith("dir") else ["q.io/app:1"], target, format=kind,
         compress=changed and kind == "docker-dir", uncompressed=changed and kind.startswith("oci"))  # fmt: skip
    assert rmi(engine, [image]).deleted == [image]
    names = load(engine, target)
    expected = {"docker-dir": [f"sha256:{image}"], "oci-dir": ["q.io/app:1"]}
    assert names == expected.get(kind, ["q.io/app:1", "localhost/second:2"])
    document = store.config(engine.paths, store.find(engine.paths, image))
    assert document["config"]["Env"] == ["A=1"] and document["history"][0]["comment"] == "made"


def test_several_images_share_their_layers(engine: Engine, tmp_path: Path, make_image: MakeImage) -> None:
    make_image("localhost/a:1", LAYER)
    make_image("localhost/b:1", LAYER, config={"Env": ["B=1"]})
    save(engine, ["a:1", "b:1"], str(tmp_path / "out"), multi=True)
    with tarfile.open(tmp_path / "out") as saved:
        assert len([name for name in saved.getnames() if name.endswith(".tar")]) == 1
        described = json.load(saved.extractfile("manifest.json") or io.BytesIO())
    assert [entry["RepoTags"] for entry in described] == [["localhost/a:1"], ["localhost/b:1"]]


def test_save_to_a_pipe_is_the_same(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(gzip.compress(LAYER))
    import_(engine, str(tmp_path / "root"), "a:1")
    save(engine, ["a:1"], str(tmp_path / "file"))
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        save(engine, ["a:1"], into)
        os._exit(0)
    os.close(into)
    with open(out, "rb") as pipe:
        assert pipe.read() == (tmp_path / "file").read_bytes()
    os.waitpid(child, 0)


def test_save_refuses(engine: Engine, tmp_path: Path, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1", LAYER)
    target = str(tmp_path / "out")
    wrong: list[dict[str, Any]] = [
        {"format": "zip"}, {"compress": True}, {"uncompressed": True}, {"format": "oci-dir", "output": 1},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(UsageError):
            save(engine, ["a:1"], options.pop("output", target), **options)
    with pytest.raises(ConflictError):
        save(engine, ["a:1"], str(tmp_path), format="oci-dir")
    with pytest.raises(RlError, match="No such file"):
        save(engine, ["a:1"], "/nosuch/directory/out")
    with open(ContentStore(engine.paths).path(made["layers"][0]), "r+b") as blob:
        blob.write(b"damage")
    with pytest.raises(VerificationError, match="is damaged in the content store"):
        save(engine, ["a:1"], target)
    assert not os.path.exists(target) and os.listdir(tmp_path).count("out") == 0


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci", "dir"])
def test_both_ways_with_skopeo(engine: Engine, tmp_path: Path, kind: str, make_image: MakeImage) -> None:
    made = make_image("q.io/team/app:1", LAYER, config={"Cmd": ["x"]})
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    save(engine, ["q.io/team/app:1"], str(ours), format={"oci": "oci-dir", "dir": "docker-dir"}.get(kind, kind))
    suffix = "" if kind == "dir" else ":q.io/team/app:2"
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    subprocess.run(
        ["skopeo", f"--policy={policy}", "copy", "-q", f"{kind}:{ours}", f"{kind}:{theirs}{suffix}"], check=True
    )
    names = load(engine, str(theirs))
    assert names == ([f"sha256:{made['id']}"] if kind == "dir" else ["q.io/team/app:2"])
    assert store.find(engine.paths, names[0])["layers"] == [digest_of(LAYER)]


# import

@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_import(engine: Engine, tmp_path: Path, compression: str) -> None:
    path = put(tmp_path, COMPRESSIONS[compression](LAYER))
    image = import_(engine, path, "made", os_="linux", arch="arm64", variant="v8")
    record = store.find(engine.paths, "made")
    assert record["id"] == image and record["name"] == "localhost/made:latest"
    assert record["layers"] == [digest_of(LAYER)]
    assert store.config(engine.paths, record)["architecture"] == "arm64"


def test_import_refuses(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        import_(engine, str(tmp_path / "nosuch"))
    for data in (b"", b"text\n", gzip.compress(b"text\n" * 200), LAYER[: len(LAYER) // 2], gzip.compress(LAYER)[:-9]):
        with pytest.raises(VerificationError):
            import_(engine, put(tmp_path, data))
    with pytest.raises(UsageError):
        import_(engine, put(tmp_path, LAYER), "BAD")
    with pytest.raises(RlError, match="refused"):
        import_(engine, "http://127.0.0.1:9/x.tar")
    assert store.list_images(engine.paths) == ([], []) and ContentStore(engine.paths).digests() == []


def test_import_from_a_server(engine: Engine, tmp_path: Path) -> None:
    import functools
    import http.server
    import threading

    (tmp_path / "root.tar").write_bytes(LAYER)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        import_(engine, f"{base}/root.tar", "made")
        with pytest.raises(NotFoundError, match="404"):
            import_(engine, f"{base}/nosuch.tar")
    finally:
        server.shutdown()
        server.server_close()
    assert store.find(engine.paths, "made")["layers"] == [digest_of(LAYER)]


# streams

def test_members_of_a_stream() -> None:
    data = header("a", 5) + b"hello" + padding(5) + header("d/", 0, directory=True) + header("b", 0) + END
    reader = TarReader(Source(io.BytesIO(data).read).read, "x")
    assert [(m.name, m.kind, b"".join(reader.data(m))) for m in reader] == [
        ("a", "file", b"hello"), ("d", "directory", b""), ("b", "file", b""),
    ]  # fmt: skip
    assert tarfile.TarInfo.frombuf(header("huge", 9 << 30), "utf-8", "strict").size == 9 << 30


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(form: int) -> None:
    out = io.BytesIO()
    name = "d/" + "é" * 120
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        made.addfile(tarfile.TarInfo(name))
    assert [m.name for m in TarReader(Source(io.BytesIO(out.getvalue()).read).read, "x")] == [name]


@pytest.mark.parametrize("compression", ["gzip", "xz", "bzip2"])
def test_streams_after_each_other(compression: str) -> None:
    data = os.urandom(5000) + bytes(300_000)
    twice = COMPRESSIONS[compression](data) + COMPRESSIONS[compression](data)
    read_on, kind = decompressed(Source(io.BytesIO(twice).read), "x")
    assert kind == compression and b"".join(iter(lambda: read_on(70_000), b"")) == data * 2
    read_on, _ = decompressed(Source(io.BytesIO(twice + b"tail").read), "x")
    with pytest.raises(VerificationError, match="other data after"):
        b"".join(iter(lambda: read_on(70_000), b""))

"""rmi and the garbage collector: what goes, what stays, and who may be at work meanwhile."""

from __future__ import annotations

import json
import os
import random
import time

import pytest
from image_lab import MakeImage, layer_tar, make

from rl.config.model import ImageRecord
from rl.config.paths import Paths
from rl.engine.collect import collect, collect_pending
from rl.engine.context import Engine
from rl.engine.rmi import rmi
from rl.engine.tag import tag
from rl.errors import NoSuchImageError, UsageError
from rl.image import store
from rl.image.content import ContentStore, adding


def container(paths: Paths, image: ImageRecord) -> str:
    """The record of a container made from *image*."""
    container_id = os.urandom(32).hex()
    os.makedirs(paths.container(container_id))
    with open(f"{paths.container(container_id)}/config.json", "w") as file:
        json.dump({"id": container_id, "name": "c", "image_id": image["id"], "layers": image["layers"]}, file)
    return container_id


def unpacked(paths: Paths, image: ImageRecord) -> None:
    for layer in image["layers"]:
        os.makedirs(f"{paths.layers}/{layer[7:]}/fs", exist_ok=True)


def test_the_last_name_takes_the_image_and_its_blobs(engine: Engine, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1")
    unpacked(engine.paths, made)
    tag(engine, "a:1", ["b:1"])
    first = rmi(engine, ["b:1"])
    assert (first.untagged, first.deleted, first.exit_code) == (["localhost/b:1"], [], 0)
    last = rmi(engine, ["a:1"])
    assert (last.untagged, last.deleted, last.exit_code) == (["localhost/a:1"], [made["id"]], 0)
    assert last.freed > 0
    assert ContentStore(engine.paths).digests() == []
    assert os.listdir(engine.paths.layers) == [] == os.listdir(engine.paths.trash)


def test_shared_layers_stay(engine: Engine, make_image: MakeImage) -> None:
    base, top = layer_tar({"base": b""}), layer_tar({"top": b""})
    one = make_image("localhost/one:1", base)
    two = make_image("localhost/two:1", base, top)
    unpacked(engine.paths, two)
    rmi(engine, ["one:1"])
    assert sorted(os.listdir(engine.paths.layers)) == sorted(layer[7:] for layer in two["layers"])
    assert not ContentStore(engine.paths).has("sha256:" + one["id"])
    assert all(ContentStore(engine.paths).has(layer) for layer in two["layers"])


def test_by_id(engine: Engine, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1")
    tag(engine, "a:1", ["b:1"])
    refused = rmi(engine, [made["id"][:12]])
    assert refused.exit_code == 125 and "more than one tag" in refused.errors[0].message
    forced = rmi(engine, [made["id"][:12]], force=True)
    assert forced.deleted == [made["id"]] and forced.untagged == ["localhost/a:1", "localhost/b:1"]


def test_in_use(engine: Engine, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1")
    make_image("localhost/b:1")
    unpacked(engine.paths, made)
    user = container(engine.paths, made)
    report = rmi(engine, ["nosuch", "a:1", "b:1"])
    assert report.exit_code == 2  # as Podman: "in use" outweighs "not known"
    assert [type(e).__name__ for e in report.errors] == ["NoSuchImageError", "ImageInUseError"]
    assert user in report.errors[1].message and user[:12] in report.errors[1].hint
    assert report.untagged == ["localhost/b:1"]
    tag(engine, "a:1", ["c:1"])
    assert rmi(engine, ["a:1"]).exit_code == 0  # a name among several may go
    assert store.find(engine.paths, "c:1")["id"] == made["id"]


def test_unknown(engine: Engine) -> None:
    assert rmi(engine, ["nosuch"]).exit_code == 1
    assert rmi(engine, ["nosuch"], ignore=True).exit_code == 0
    assert rmi(engine, [], all=True).exit_code == 0
    with pytest.raises(UsageError):
        rmi(engine, [])
    with pytest.raises(UsageError):
        rmi(engine, ["a"], all=True)


def test_layers_of_containers_stay(engine: Engine, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1")
    unpacked(engine.paths, made)
    container(engine.paths, made)
    os.unlink(f"{engine.paths.images}/{store.file_name('localhost/a:1')}")
    collect(engine)
    assert [f"sha256:{name}" for name in os.listdir(engine.paths.layers)] == made["layers"]


def test_an_unreadable_container_keeps_all_layers(engine: Engine, make_image: MakeImage) -> None:
    made, other = make_image("localhost/a:1"), make_image("localhost/b:1")
    unpacked(engine.paths, made)
    with open(f"{engine.paths.container(container(engine.paths, other))}/config.json", "w") as file:
        file.write("{")
    rmi(engine, ["a:1"])
    assert [f"sha256:{name}" for name in os.listdir(engine.paths.layers)] == made["layers"]


def test_a_damaged_record_keeps_what_it_may_use(engine: Engine, make_image: MakeImage) -> None:
    lost, gone = make_image("localhost/lost:1"), make_image("localhost/gone:1")
    with open(f"{engine.paths.images}/{store.file_name('localhost/lost:1')}", "w") as file:
        file.write("{")
    rmi(engine, ["gone:1"])
    content = ContentStore(engine.paths)
    assert content.has(lost["manifest"]) and content.has("sha256:" + lost["id"])
    assert not content.has(gone["manifest"])


def test_nothing_is_freed_while_an_image_arrives(engine: Engine, make_image: MakeImage) -> None:
    content = ContentStore(engine.paths)
    gone = make_image("localhost/gone:1")
    with adding(engine.paths):
        arriving = content.put_bytes(b"a blob no record names yet")
        report = rmi(engine, ["gone:1"])
        assert report.deleted == [gone["id"]] and report.freed == 0
        assert content.has(arriving) and content.has(gone["manifest"])
    collect_pending(engine)
    assert content.digests() == []


HISTORY = [{"created_by": "FROM"}, {"created_by": "RUN a"}, {"created_by": "ENV b", "empty_layer": True}]


def test_parents_without_a_name_go_with_their_last_child(engine: Engine, make_image: MakeImage) -> None:
    base, top = layer_tar({"base": b""}), layer_tar({"top": b""})
    grand = make_image("", base, history=HISTORY[:1])
    parent = make_image("", base, top, history=HISTORY[:2])
    child = make_image("localhost/child:1", base, top, history=HISTORY)
    assert rmi(engine, [parent["id"]]).errors[0].message.endswith("is the parent of another image")
    assert rmi(engine, ["child:1"], no_prune=True).deleted == [child["id"]]
    make_image("localhost/child:1", base, top, history=HISTORY)
    assert rmi(engine, ["child:1"]).deleted == [child["id"], parent["id"], grand["id"]]
    assert store.list_images(engine.paths) == ([], [])


def test_everything_at_once(engine: Engine, make_image: MakeImage) -> None:
    base = layer_tar({"base": b""})
    make_image("localhost/parent:1", base, history=HISTORY[:1])
    make_image("localhost/child:1", base, layer_tar({"top": b""}), history=HISTORY[:2])
    report = rmi(engine, [], all=True)
    assert report.exit_code == 0 and len(report.deleted) == 2
    assert ContentStore(engine.paths).digests() == []


def _churn(engine: Engine, seed: int) -> None:
    """Add, tag and remove images that share layers with those of the other processes."""
    chance = random.Random(seed)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        name = f"localhost/n{chance.randrange(4)}:1"
        if chance.random() < 0.6:
            with adding(engine.paths):
                make(engine.paths, name, layer_tar({"base": b""}), layer_tar({f"l{chance.randrange(6)}": b""}))
            collect_pending(engine)
        else:
            report = rmi(engine, [name], force=chance.random() < 0.5)
            assert all(isinstance(error, NoSuchImageError) for error in report.errors), report.errors


def test_adding_and_removing_side_by_side(engine: Engine) -> None:
    children = []
    for seed in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _churn(engine, seed)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    records, errors = store.list_images(engine.paths)
    assert errors == []
    content = ContentStore(engine.paths)
    wanted = set()
    for record in records:
        manifest = store.manifest(engine.paths, record)
        store.config(engine.paths, record)
        wanted |= {*store.all_digests(record), manifest["config"]["digest"]}
        wanted |= {layer["digest"] for layer in manifest["layers"]}
        assert all(content.has(layer["digest"], layer["size"]) for layer in manifest["layers"])
    collect(engine)
    assert set(content.digests()) <= wanted
    assert all(content.has(record["manifest"]) for record in records)

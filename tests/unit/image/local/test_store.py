"""Records: what finds an image, what moves a name, what a damaged file does."""

from __future__ import annotations

import json
import os

import pytest
from image_lab import MakeImage

from rl.config.paths import Paths
from rl.engine.context import Engine
from rl.engine.rmi import rmi
from rl.engine.tag import tag
from rl.engine.untag import untag
from rl.errors import AmbiguousNameError, CorruptRecordError, NoSuchImageError, UsageError, VerificationError
from rl.image import documents, store
from rl.image.content import ContentStore


@pytest.mark.parametrize(
    "name", ["docker.io/library/a_b-c.d:1.0_x", "localhost:5000/a/b:t", "[::1]:5000/a:t", "@" + "a" * 64]
)
def test_file_names_are_reversible(name: str) -> None:
    assert "/" not in store.file_name(name)
    assert store.record_name(store.file_name(name)) == name


def test_the_longest_name_fits(paths: Paths, make_image: MakeImage) -> None:
    name = "q.io/" + "a" * 250 + ":" + "t" * 128
    made = make_image(name)
    assert store.find(paths, name) == made
    other = make_image(name[:-1] + "u")
    assert store.find(paths, name[:-1] + "u")["id"] == other["id"] != made["id"]


def test_find(paths: Paths, make_image: MakeImage) -> None:
    nginx = make_image("docker.io/library/nginx:latest")
    local = make_image("localhost/tool:latest")
    hub_tool = make_image("docker.io/library/tool:latest")
    quay = make_image("quay.io/team/app:2")
    port = make_image("127.0.0.1:5000/app2:latest")
    table = [
        ("docker.io/library/nginx:latest", nginx), ("docker.io/nginx", nginx), ("nginx", nginx),
        ("nginx:latest", nginx),
        ("library/nginx", nginx), ("tool", local), ("docker.io/tool", hub_tool), ("app:2", quay), ("team/app:2", quay),
        ("quay.io/team/app:2", quay), ("127.0.0.1:5000/app2", port), ("app2", port), (nginx["id"], nginx),
        (nginx["id"][:12], nginx), ("sha256:" + nginx["id"], nginx), ("sha256:" + nginx["id"][:9], nginx),
        (f"nginx@{nginx['manifest']}", nginx), (f"docker.io/library/nginx@{nginx['manifest']}", nginx),
        (f"nginx:other@{nginx['manifest']}", nginx), (f"quay.io/team/app@{quay['manifest']}", quay),
        (f"app@{quay['manifest']}", quay), (nginx["manifest"], nginx), ("docker://docker.io/library/nginx", nginx),
    ]
    for text, record in table:
        assert store.find(paths, text)["name"] == record["name"], text


@pytest.mark.parametrize("text", ["nosuch", "nginx:2", "quay.io/nginx", "pp:2", "f" * 64, "sha256:" + "0" * 20])
def test_not_found_says_what_to_do(paths: Paths, make_image: MakeImage, text: str) -> None:
    make_image("docker.io/library/nginx:latest")
    make_image("quay.io/team/app:2")
    with pytest.raises(NoSuchImageError) as caught:
        store.find(paths, text)
    assert "rl pull" in caught.value.hint


def test_a_digest_of_another_repository_is_not_found(paths: Paths, make_image: MakeImage) -> None:
    nginx = make_image("docker.io/library/nginx:latest")
    with pytest.raises(NoSuchImageError):
        store.find(paths, f"quay.io/x@{nginx['manifest']}")


def test_ambiguous(paths: Paths, make_image: MakeImage) -> None:
    make_image("quay.io/a/app:1")
    make_image("example.com/b/app:1")
    with pytest.raises(AmbiguousNameError, match=r"example\.com/b/app:1, quay\.io/a/app:1"):
        store.find(paths, "app:1")


def test_not_ambiguous_where_it_is_one_image(engine: Engine, make_image: MakeImage) -> None:
    made = make_image("quay.io/a/app:1")
    tag(engine, made["id"], ["example.com/b/app:1"])
    assert store.find(engine.paths, "app:1")["id"] == made["id"]


def test_empty_and_bad_names(paths: Paths) -> None:
    for text in ("", "Bad", "a b"):
        with pytest.raises(UsageError):
            store.find(paths, text)


def test_a_name_that_moves_leaves_its_image_nameless(paths: Paths, make_image: MakeImage) -> None:
    old = make_image("localhost/a:1", b"old")
    new = make_image("localhost/a:1", b"new")
    assert store.find(paths, "a:1")["id"] == new["id"]
    left = store.find(paths, old["id"])
    assert left["name"] == "" and left["history"] == ["localhost/a:1"]
    again = make_image("localhost/a:1", b"old")
    assert store.find(paths, "a:1")["id"] == again["id"] == old["id"]
    assert [r["name"] for r in store.same_image(paths, old["id"])] == ["localhost/a:1"]
    assert [r["name"] for r in store.same_image(paths, new["id"])] == [""]


def test_a_damaged_record_is_named_and_alone(engine: Engine, make_image: MakeImage) -> None:
    paths = engine.paths
    make_image("localhost/good:1")
    make_image("localhost/bad:1")
    path = f"{paths.images}/{store.file_name('localhost/bad:1')}"
    for damage in ("", "{", "[]", '{"name": "localhost/other:1"}', '{"name": 1, "manifest": 2, "id": 3}'):
        with open(path, "w") as file:
            file.write(damage)
        with pytest.raises(CorruptRecordError, match="bad,1"):
            store.find(paths, "bad:1")
        assert store.find(paths, "good:1")["name"] == "localhost/good:1"
        records, errors = store.list_images(paths)
        assert [r["name"] for r in records] == ["localhost/good:1"]
        assert len(errors) == 1 and path in errors[0].message
    assert rmi(engine, ["bad:1"]).exit_code == 125
    assert rmi(engine, ["bad:1"], force=True).exit_code == 0
    assert store.list_images(paths)[1] == []


def test_a_missing_config_names_the_image(paths: Paths, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1")
    ContentStore(paths).remove("sha256:" + made["id"])
    with pytest.raises(CorruptRecordError, match="config of image localhost/a:1"):
        store.config(paths, made)


def test_temporary_files_are_no_records(paths: Paths, make_image: MakeImage) -> None:
    make_image("localhost/x.1.tmp:v.2.tmp")
    open(f"{paths.images}/.4711.4711.tmp", "w").close()
    assert [r["name"] for r in store.list_images(paths)[0]] == ["localhost/x.1.tmp:v.2.tmp"]
    assert not [name for name in os.listdir(paths.images) if name.startswith(f".{os.getpid()}")]


def test_tag_and_untag(engine: Engine, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1")
    tag(engine, "a:1", ["b", "quay.io/x/y:z"])
    names = [r["name"] for r in store.same_image(engine.paths, made["id"])]
    assert names == ["localhost/a:1", "localhost/b:latest", "quay.io/x/y:z"]
    assert f"quay.io/x/y@{made['manifest']}" in store.find(engine.paths, "quay.io/x/y:z")["digests"]
    with pytest.raises(NoSuchImageError):
        untag(engine, "a:1", ["a:1", "nosuch"])
    assert len(store.same_image(engine.paths, made["id"])) == 3
    assert untag(engine, "a:1", ["b"]) == ["localhost/b:latest"]
    untag(engine, "a:1")
    assert [r["name"] for r in store.same_image(engine.paths, made["id"])] == [""]
    tag(engine, made["id"], ["a:1"])
    assert [r["name"] for r in store.same_image(engine.paths, made["id"])] == ["localhost/a:1"]


def test_tag_is_all_or_nothing(engine: Engine, make_image: MakeImage) -> None:
    make_image("localhost/a:1")
    for bad in ("BAD", "x@sha256:" + "a" * 64, ""):
        with pytest.raises(UsageError):
            tag(engine, "a:1", ["good", bad])
    with pytest.raises(NoSuchImageError):
        store.find(engine.paths, "good")


GOOD_CONFIG = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "a" * 64]}}


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{", b"[]", b"\xff", b"{}", b'{"rootfs": {}}', b'{"rootfs": {"diff_ids": "x"}}', b"[" * 100000,
        b'{"rootfs": {"diff_ids": ["sha256:../.."]}}', b'{"rootfs": {"diff_ids": []}}',
        *(
            json.dumps({**GOOD_CONFIG, **bad}).encode()
            for bad in (
                {"config": []}, {"config": {"Env": "A=1"}}, {"config": {"Cmd": [1]}}, {"config": {"Labels": {"a": 1}}},
                {"config": {"User": 0}}, {"created": 5}, {"history": {}}, {"config": {"Volumes": ["x"]}},
            )
        ),
    ],
)
def test_bad_configs_are_refused(document: bytes) -> None:
    with pytest.raises(VerificationError, match="the config"):
        documents.parse_config(document, "the config", 1)


def test_a_config_without_config_is_good() -> None:
    assert documents.parse_config(json.dumps({**GOOD_CONFIG, "config": None}).encode(), "c", 1)["config"] == {}


def test_add_refuses_an_image_that_is_not_whole(paths: Paths, make_image: MakeImage) -> None:
    made = make_image("localhost/a:1", b"layer")
    ContentStore(paths).remove(made["layers"][0])
    with pytest.raises(VerificationError, match="is not in the content store"):
        store.add(paths, "localhost/b:1", made["manifest"])

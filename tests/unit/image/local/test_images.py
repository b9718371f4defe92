"""rl images and rl image inspect: documents, filters, order."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from image_lab import MakeImage, layer_tar

from rl.engine.context import Engine
from rl.engine.image_filters import matches, time_limit
from rl.engine.image_inspect import image_inspect
from rl.engine.images import images, parse_time, rows
from rl.engine.tag import tag
from rl.errors import NoSuchImageError, UsageError

BASE, TOP = layer_tar({"base": b""}), layer_tar({"top": b""})
HISTORY = [{"created_by": "FROM"}, {"created_by": "RUN a"}, {"created_by": "ENV b", "empty_layer": True}]


@pytest.fixture
def filled(engine: Engine, make_image: MakeImage) -> Engine:
    make_image("docker.io/library/nginx:1", created="2020-01-01T00:00:00Z", config={"Labels": {"k": "v"}})
    tag(engine, "nginx:1", ["localhost/web:1"])
    make_image("quay.io/team/app:2", created="2022-01-01T00:00:00+02:00", config={"Labels": {"k": "w"}})
    make_image("", b"x", created="2021-06-01T00:00:00.123Z")
    make_image("", BASE, history=HISTORY[:1], created="2019-01-01T00:00:00Z")  # intermediate
    make_image("localhost/child:1", BASE, TOP, history=HISTORY[:2], created="2023-01-01T00:00:00Z")
    return engine


def names(engine: Engine, *filters: str, **options: object) -> list[str]:
    found = images(engine, filters=list(filters), **options)  # type: ignore[arg-type]
    return [f"{repository}:{tag_}".replace("<none>:<none>", "-") for _, repository, tag_ in rows(found)]


NGINX = ["docker.io/library/nginx:1", "localhost/web:1"]


def test_newest_first_and_no_intermediate_ones(filled: Engine) -> None:
    assert names(filled) == ["localhost/child:1", "quay.io/team/app:2", "-", *NGINX]
    assert names(filled, all=True)[-1] == "-" and len(names(filled, all=True)) == 6
    assert names(filled, full=False) == names(filled)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["dangling=true"], ["-"]),
        (["dangling=false"], ["localhost/child:1", "quay.io/team/app:2", *NGINX]),
        (["label=k"], ["quay.io/team/app:2", *NGINX]),
        (["label=k=v"], NGINX),
        (["label=k", "label=k=w"], ["quay.io/team/app:2"]),
        (["label!=k", "dangling=false"], ["localhost/child:1"]),
        (["reference=nginx"], NGINX),
        (["reference=ngin?:*"], NGINX),
        (["reference=app", "reference=child"], ["localhost/child:1", "quay.io/team/app:2"]),
        (["before=app:2"], ["-", *NGINX]),
        (["since=nginx:1"], ["localhost/child:1", "quay.io/team/app:2", "-"]),
        (["after=app:2"], ["localhost/child:1"]),
        (["until=2021-01-01"], NGINX),
        (["until=2021-12-31T22:00:00Z"], ["-", *NGINX]),
        (["readonly=true"], []),
        (["containers=true"], []),
        (["id=zzz"], []),
    ],
)
def test_filters(filled: Engine, filters: list[str], expected: list[str]) -> None:
    assert names(filled, *filters) == expected


def test_intermediate(filled: Engine) -> None:
    assert names(filled, "intermediate=true", all=True) == ["-"]
    (child,) = images(filled, ["child"])
    assert child["ParentId"] == images(filled, filters=["intermediate=true"], all=True)[0]["Id"]
    assert image_inspect(filled, ["child:1"])[0]["Parent"] == child["ParentId"]


@pytest.mark.parametrize("text", ["", "x", "x=1", "dangling=maybe", "until=soon", "until=", "containers=5"])
def test_bad_filters(filled: Engine, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        images(filled, filters=[text])
    assert caught.value.hint


def test_bad_sort_and_unknown_reference(filled: Engine) -> None:
    with pytest.raises(UsageError, match="not a valid field"):
        images(filled, sort="foo")
    with pytest.raises(NoSuchImageError):
        images(filled, filters=["since=nosuch"])
    assert images(filled, ["nosuch"]) == []


def test_sorted_lines(filled: Engine) -> None:
    lines = rows(images(filled, sort="repository"), "repository")
    assert [line[1] for line in lines] == sorted(line[1] for line in lines)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [("nginx", True), ("library/nginx", True), ("docker.io/library/nginx:1", True), ("nginx:2", False), ("ginx", False),
     ("*", True), ("docker.io/*", True), ("nginx:[0-9]", True), ("*:2", False), ("quay.io/library/nginx", False)],
)  # fmt: skip
def test_matches(wanted: str, fits: bool) -> None:
    assert matches("docker.io/library/nginx:1", wanted) is fits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-01T00:00:00Z", 0), ("2000-02-29T12:00:00.5Z", 951825600), ("2024-01-01T00:00:00+02:00", 1704060000),
     ("2024-12-31T23:59:59-05:30", 1735709399), ("", 0), ("nonsense", 0), ("2024-13-01T00:00:00Z", 0),
     ("0001-01-01T00:00:00Z", -62135596800)],
)  # fmt: skip
def test_times(text: str, seconds: int) -> None:
    assert parse_time(text)[0] == seconds


def test_time_limit() -> None:
    assert abs(time_limit("1h30m") - (time.time() - 5400)) < 5
    assert time_limit("1700000000") == 1700000000


def test_imports_stay_light() -> None:
    code = (
        "import sys; import rl.engine.images, rl.image.store;"
        "print(sorted({'re','json','typing','enum','dataclasses','subprocess','hashlib','tarfile'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert done.stdout.strip() == "[]"

"""--opt of the local driver: what is taken, what is refused, and what a record shows of it."""

from __future__ import annotations

import pytest

from rl.engine.volume import options as local
from rl.errors import RlError

GOOD = [
    ({}, "", {}),
    ({"nocopy": ""}, "", {"copy": False}),
    ({"o": "uid=5,gid=6"}, "", {"uid": 5, "gid": 6, "flags": []}),
    ({"o": "size=1k,inodes=7"}, "", {"size": 1024, "inodes": 7}),
    ({"o": "noquota"}, "", {"size": 0}),
    ({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=700,noexec"}, "tmpfs",
     {"size": 1 << 20, "flags": ["mode=700", "noexec"]}),
    ({"type": "none", "device": "/srv", "o": "bind,ro"}, "bind", {"device": "/srv", "flags": ["bind", "ro"]}),
    ({"device": "/srv", "o": "rbind"}, "bind", {}),
    ({"type": "bind", "device": "/srv"}, "bind", {}),
    ({"type": "overlay", "o": "lowerdir=/a,upperdir=/b,workdir=/c"}, "overlay", {}),
]


@pytest.mark.parametrize(("options", "kind", "expected"), GOOD)
def test_taken(options: dict[str, str], kind: str, expected: dict[str, object]) -> None:
    found = local.parse(options)
    assert found.type == kind
    assert {key: getattr(found, key) for key in expected} == expected
    recorded = local.recorded(options, found)
    assert list(recorded) == sorted(recorded) and local.parse(recorded).type == kind
    assert local.needs_mount({"Options": recorded}) == bool(kind)


BAD = [
    ({"foo": "bar"}, "invalid mount option foo"),
    ({"copy": "", "nocopy": ""}, "exclude each other"),
    ({"type": "nfs", "o": "addr=x", "device": ":/x"}, "nfs needs root's privileges"),
    ({"type": "none", "device": "srv", "o": "bind"}, "no absolute path"),
    ({"type": "bind"}, "needs the directory"),
    ({"type": "bind", "device": "/srv", "o": "size=1m"}, "cannot limit a directory of the host"),
    ({"o": "ro"}, "without type="),
    ({"type": "overlay"}, "lowerdir"),
    ({"o": "uid=x"}, "not a whole number"),
    ({"o": "uid=-1"}, "out of range"),
    ({"o": "size=1m,noquota"}, "noquota"),
    ({"o": "timeout=3"}, "timeout"),
]


@pytest.mark.parametrize(("options", "part"), BAD)
def test_refused(options: dict[str, str], part: str) -> None:
    with pytest.raises(RlError) as caught:
        local.parse(options)
    assert (part in caught.value.message and caught.value.hint) or "uid" in str(options)

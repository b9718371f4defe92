"""What a word of `rl cp` means, and what `rl commit --config` may say."""

from __future__ import annotations

from typing import Any

import pytest

from rl.engine.commit import merge
from rl.engine.cp import split
from rl.errors import UsageError

WORDS = [
    ("c:/x", "c", "/x"), ("c:x", "c", "x"), ("c:", "c", ""), ("c:/a:b", "c", "/a:b"), ("x", "", "x"), ("-", "", "-"),
    ("/a:b", "", "/a:b"), ("./a:b", "", "./a:b"), ("..:b", "", "..:b"), (":", "", ""), ("", "", ""),
]


@pytest.mark.parametrize(("word", "container", "path"), WORDS)
def test_split(word: str, container: str, path: str) -> None:
    assert split(word) == (container, path)


def test_merge() -> None:
    config: dict[str, Any] = {"Env": ["A=1", "B=2"], "Cmd": ["sh"], "Labels": {"x": "1"}}
    merge(config, {"Env": ["B=3", "C=4"], "Cmd": [], "Labels": {"y": "2"}, "User": "me"})
    assert config == {"Env": ["A=1", "B=3", "C=4"], "Cmd": [], "Labels": {"x": "1", "y": "2"}, "User": "me"}


@pytest.mark.parametrize("given", [{"Bogus": 1}, {"Env": "A=1"}, {"Env": [1]}, {"Cmd": "sh"}, {"Labels": []}, {"User": 1}])
def test_merge_refuses(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        merge({}, given)

"""A registry for the whole run, and an engine with an empty state for each test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from rl.config.paths import Paths
from rl.engine.context import Engine
from rl.runtime import userns
from rl.storage.trash import remove_tree
from support.registry import Registry, missing_programs


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry without TLS and without passwords."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"{missing} is not installed")
    with Registry(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with TLS (self-signed) that knows ann (secret) and bob (hidden)."""
    missing = missing_programs("htpasswd")
    if missing:
        pytest.skip(f"{missing} is not installed")
    with Registry(tmp_path_factory.mktemp("secure"), tls=True, users={"ann": "secret", "bob": "hidden"}) as registry:
        yield registry


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine of its own; nothing of the user's configuration reaches the test."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "CONTAINERS_REGISTRIES_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    os.makedirs(tmp_path / "home")
    os.makedirs(tmp_path / "run", mode=0o700)
    paths = Paths(
        str(tmp_path / "data"), str(tmp_path / "run/rl"), str(tmp_path / "home/.config/containers"),
        str(tmp_path / "home/.cache/rl"),
    )  # fmt: skip
    paths.ensure()
    os.makedirs(paths.config)
    warnings: list[str] = []
    made = Engine(paths, {}, warnings.append)
    yield made
    userns.call(paths.run, remove_tree, paths.data)

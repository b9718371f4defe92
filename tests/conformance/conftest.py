"""The installed `rl` as a user of these tests' own, with busybox loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rl.cli.verbs import find
from support import users
from system.conftest import Rl, busybox_archive, registry, unique_user

__all__ = ["busybox_archive", "registry"]

#: The table of cases is proven against Buildah; what compares rl with it waits for the verb, as do the real builds.
collect_ignore = [] if find(["build"])[0] else ["test_build_conformance.py", "test_real_builds.py"]


@pytest.fixture(scope="module")
def rl(busybox_archive: Path) -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-build"))
    tool.ok("load", "-q", "-i", busybox_archive)
    yield tool
    users.wipe(tool.user)

"""The installed `rl` as a user of these tests' own: they remove all images, which other tests' users need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import users
from system.conftest import Rl, unique_user


@pytest.fixture(scope="module")
def rl() -> Iterator[Rl]:
    tool = Rl(unique_user("rltest-interop"))
    yield tool
    users.wipe(tool.user)

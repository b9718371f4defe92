"""Every command and flag that rl has for containers, images, volumes, secrets and the system was driven by some test.

Runs last (tests/conftest.py), and only where all tests run.
"""

from __future__ import annotations

import pytest

from support import driven

NOUNS = ("container", "healthcheck", "volume", "secret", "system", "image", "manifest", "artifact")


@pytest.mark.complete_run
def test_every_flag_is_driven() -> None:
    # `create` and `run` share a table: what both have is the same code.
    pair = ("container.create", "container.run")
    shared = {(other, key) for module, key in driven.seen if module in pair for other in pair}
    missing = [pair for pair in driven.wanted(NOUNS) if pair not in driven.seen | shared]
    assert [f"{module}: {key.replace('_', '-') or 'the command'}" for module, key in missing] == []

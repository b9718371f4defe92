"""What concerns a run as a whole: its order, and the rounds of power cuts that go on beside all of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import vm_image
from support.vm_plug import PlugRounds


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "complete_run: looks at what all other tests did, so it runs after them")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a complete run come last, and not at all when only some tests run."""
    last = [item for item in items if item.get_closest_marker("complete_run")]
    items[:] = [item for item in items if item not in last]
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword:
        items += last
    elif last:
        config.hook.pytest_deselected(items=last)


@pytest.fixture(scope="session", autouse=True)
def plug_rounds(request: pytest.FixtureRequest) -> Iterator[PlugRounds | None]:
    """The rounds, begun before the first test of all, if the one that asks for their result is among those to be run."""
    if not any(item.path.name == "test_vm_unplugged.py" for item in request.session.items) or vm_image.missing():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rl-plug-", dir="/var/tmp") as name:
        rounds = PlugRounds(Path(name))
        yield rounds
        rounds.stop()

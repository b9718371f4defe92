"""Order of the tests: what looks at the whole run comes last, and not at all when only some tests run."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "complete_run: needs all tests to have run before it")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    last = [item for item in items if item.get_closest_marker("complete_run")]
    items[:] = [item for item in items if item not in last]
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword:
        items += last
    elif last:
        config.hook.pytest_deselected(items=last)

"""--log-driver and --log-opt, and what containers.conf says where they say nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rl.engine.spec.logs import log_config
from rl.errors import UsageError


@pytest.mark.parametrize(
    ("options", "conf", "found"),
    [
        ({}, {}, {"driver": "k8s-file", "path": "/x", "max_size": 10 << 20, "max_file": 2, "tag": ""}),
        ({"log_driver": ""}, {}, {"driver": "k8s-file"}),
        ({"log_driver": "none"}, {}, {"driver": "none", "path": "", "max_size": 0}),
        ({"log_opt": ["driver=json-file", "max-file=5"]}, {}, {"driver": "json-file", "path": "/x", "max_file": 5}),
        ({"log_opt": ["max-size=-1"]}, {}, {"max_size": 0}),
        ({"log_opt": ["max-size=1m"]}, {"log_size_max": 9000}, {"max_size": 1 << 20}),
        ({"log_opt": ["path="]}, {}, {"path": "/x"}),
        ({}, {"log_driver": "json-file", "log_size_max": 9000, "log_tag": "t"},
         {"driver": "json-file", "max_size": 9000, "tag": ""}),
        ({}, {"log_driver": "", "log_size_max": -1}, {"driver": "k8s-file", "max_size": 0}),
        ({"log_driver": "k8s-file"}, {"log_driver": "none"}, {"driver": "k8s-file"}),
    ],
)
def test_what_is_written_where(options: dict[str, Any], conf: dict[str, Any], found: dict[str, Any]) -> None:
    log: Any = log_config("/x", options, {f"containers.{key}": value for key, value in conf.items()})
    assert {key: log[key] for key in found} == found


@pytest.mark.parametrize(
    ("options", "conf", "said"),
    [
        ({"log_driver": "syslog"}, {}, "--log-driver: invalid log driver 'syslog'"),
        ({"log_opt": ["max-size"]}, {}, 'invalid log option "max-size"'),
        ({"log_opt": ["=1"]}, {}, "invalid log option"),
        ({"log_opt": ["max-size=x"]}, {}, "'x' is not a size"),
        ({"log_opt": ["size=1m"]}, {}, "'size' is not known"),
        ({"log_opt": ["mode=non-blocking"]}, {}, "'mode' is not known"),
        ({"log_opt": ["max-file=0"]}, {}, "max-file"),
        ({"log_opt": ["path=/nonexistent/dir/log"]}, {}, "/nonexistent/dir is no directory"),
        ({"log_opt": ["path=/tmp"]}, {}, "it is a directory"),
        ({"log_driver": "none", "log_opt": ["max-size=1m"]}, {}, "has no meaning with --log-driver=none"),
        ({"log_driver": "passthrough", "tty": True}, {}, "cannot be used with --tty"),
        ({}, {"log_driver": "syslog"}, "containers.conf: log_driver: invalid log driver 'syslog'"),
        ({}, {"log_size_max": 100}, "less than 8192"),
    ],
)
def test_wrong_options(options: dict[str, Any], conf: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        log_config("/x", options, {f"containers.{key}": value for key, value in conf.items()})


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert log_config("/x", {"log_opt": ["path=my.log"]}).get("path") == os.path.join(tmp_path, "my.log")

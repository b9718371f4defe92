"""--change: instructions applied to a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from rl.errors import UsageError
from rl.image.changes import apply, split_words


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ('CMD ["a", "b c"]', "Cmd", ["a", "b c"]),
        ("CMD a b", "Cmd", ["/bin/sh", "-c", "a b"]),
        ("CMD=/bin/bash", "Cmd", ["/bin/sh", "-c", "/bin/bash"]),
        ('cmd ["x"]', "Cmd", ["x"]),
        ('ENTRYPOINT ["/init"]', "Entrypoint", ["/init"]),
        ("ENV A=1", "Env", ["OLD=1", "A=1"]),
        ("ENV OLD=2 B='x y' C=\\ z", "Env", ["OLD=2", "B=x y", "C= z"]),
        ("ENV KEY all the rest", "Env", ["OLD=1", "KEY=all the rest"]),
        ("EXPOSE 80 53/udp 8000-8002", "ExposedPorts",
         {port: {} for port in ("80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp")}),
        ('LABEL a=b "c d"="e f"', "Labels", {"old": "label", "a": "b", "c d": "e f"}),
        ("ONBUILD RUN make", "OnBuild", ["RUN make"]),
        ("STOPSIGNAL SIGINT", "StopSignal", "SIGINT"),
        ("USER 1000:1000", "User", "1000:1000"),
        ("USER=app", "User", "app"),
        ('VOLUME ["/a", "/b c"]', "Volumes", {"/a": {}, "/b c": {}}),
        ("VOLUME /a /b", "Volumes", {"/a": {}, "/b": {}}),
        ("WORKDIR /srv", "WorkingDir", "/srv"),
        ("WORKDIR sub", "WorkingDir", "/old/sub"),
    ],
)  # fmt: skip
def test_change(change: str, key: str, value: Any) -> None:
    config: dict[str, Any] = {"Env": ["OLD=1"], "Labels": {"old": "label"}, "WorkingDir": "/old"}
    apply(config, [change])
    assert config[key] == value


def test_an_entry_point_drops_the_arguments_for_the_old_one() -> None:
    config: dict[str, Any] = {"Cmd": ["x"]}
    apply(config, ['ENTRYPOINT ["/init"]'])
    assert config == {"Entrypoint": ["/init"]}
    apply(config, ["ENTRYPOINT"])
    assert config == {}
    apply(config, ['CMD ["y"]', 'ENTRYPOINT ["/init"]'])  # of the same list: they belong together
    assert config == {"Entrypoint": ["/init"], "Cmd": ["y"]}


@pytest.mark.parametrize(
    "change",
    ["", "RUN x", "COPY a b", "ENV", "ENV A", "ENV A=1 B", "ENV A='x", "EXPOSE x", "EXPOSE 0", "EXPOSE 70000",
     "EXPOSE 9-8", "EXPOSE 80/icmp", "CMD [1]",
     'CMD ["a"', "USER a b", "LABEL x", "VOLUME", "WORKDIR", "CMDX", "CMD!x"],
)  # fmt: skip
def test_refused_with_a_hint(change: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply({}, [change])
    assert caught.value.hint


def test_words() -> None:
    assert split_words("""a "b c"d 'e"f' g\\ h "" """) == ["a", "b cd", 'e"f', "g h", ""]

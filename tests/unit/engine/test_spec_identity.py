"""Id maps in full, --env-merge, rl update --env, systemd mode, the entries for passwd and group: tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rl.engine import identity
from rl.engine.oci import Context
from rl.engine.spec import accounts, environment, explicitmaps, idmaps, security, systemd
from rl.errors import UnsupportedError, UsageError
from rl.runtime.userns import IdMaps

HOST = [(0, 1000, 1), (1, 100000, 65536)]


@pytest.mark.parametrize(
    ("texts", "kind", "expected"),
    [
        (["0:1:10"], "u", [(0, 1, 10)]),
        (["0:1"], "u", [(0, 1, 1)]),
        (["0:0:10"], "u", [(0, 0, 1), (1, 1, 9)]),  # the kernel takes no line that crosses a range of the host
        (["5:1:5", "0:10:5"], "u", [(0, 10, 5), (5, 1, 5)]),
        (["0:@1000:1", "1:@100007:2"], "u", [(0, 0, 1), (1, 8, 2)]),
        (["+10:0"], "u", None),  # root of the container would be nobody
        (["+100:5"], "u", [(0, 0, 1), (1, 1, 4), (6, 6, 94), (100, 5, 1), (101, 101, 65436)]),
        (["u0:1:3", "g0:4:3"], "u", [(0, 1, 3)]),
        (["u0:1:3", "g0:4:3"], "g", [(0, 4, 3)]),
        (["g0:4:3"], "u", [(0, 0, 1), (1, 1, 65536)]),
    ],
)
def test_map(texts: list[str], kind: str, expected: list[tuple[int, int, int]] | None) -> None:
    if expected is None:
        with pytest.raises(UnsupportedError, match="id 0"):
            explicitmaps.build(texts, HOST, kind, "--uidmap")
        return
    found = explicitmaps.build(texts, HOST, kind, "--uidmap")
    assert found == expected
    for inside in (range(first, first + count) for first, _, count in found):
        assert inside.start >= 0


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["x"], "not a mapping"), (["0:1:2:3"], "not a mapping"), (["0:x:1"], "whole number"), (["0:1:0"], "range"),
        (["-1:0:1"], "range"), (["0:1:65537"], "65537 ids"), (["0:@5:1"], "not this user's"), (["0:@1000:2"], "not this user's"),
        (["0:1:10", "9:20:2"], "overlap at id 9"), (["0:1:10", "20:10:2"], "overlap at id 10"), (["1:1:1"], "id 0"),
    ],
)
def test_map_refused(texts: list[str], says: str) -> None:
    with pytest.raises((UsageError, UnsupportedError), match=says) as caught:
        explicitmaps.build(texts, HOST, "u", "--uidmap")
    assert caught.value.hint or "range" in says or "number" in says


def test_no_line_crosses_a_range_of_the_host() -> None:
    """With two ranges in /etc/subuid, every --userns would end in EPERM otherwise."""
    host = [(0, 1000, 1), (1, 100000, 10), (11, 300000, 10)]
    assert idmaps.within([(0, 1, 15), (15, 0, 1), (16, 17, 4)], host) == [(0, 1, 10), (10, 11, 5), (15, 0, 1), (16, 17, 4)]
    assert idmaps.within([], host) == []


def test_one_map_for_both_kinds() -> None:
    host = IdMaps("full", HOST, [(0, 1000, 1), (1, 200000, 10)])
    assert explicitmaps.maps({"uidmap": ["0:1:5"]}, host) == ([(0, 1, 5)], [(0, 1, 5)])
    assert explicitmaps.maps({"uidmap": ["0:1:5"], "gidmap": ["0:2:1"]}, host) == ([(0, 1, 5)], [(0, 2, 1)])
    with pytest.raises(UnsupportedError, match="11 ids"):
        explicitmaps.maps({"uidmap": ["0:1:20"]}, host)
    with pytest.raises(UsageError, match="contradict"):
        explicitmaps.maps({"uidmap": ["0:1:5"], "subuidname": "x"}, host)
    with pytest.raises(UsageError, match="no range"):
        explicitmaps.maps({"subuidname": "no-such-user"}, host)


VARIABLES = {"PATH": "/bin", "EMPTY": "", "A_1": "x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""), ("plain", "plain"), ("$PATH:/x", "/bin:/x"), ("${PATH}x", "/binx"), ("$A_1", "x"), ("$A_1-", "x-"), ("$NO", ""),
        ("${NO:-a b}", "a b"), ("${EMPTY:-a}", "a"), ("${PATH:-a}", "/bin"), ("${PATH:+set}", "set"), ("${NO:+set}", ""),
        (r"\$PATH", "$PATH"), ("'$PATH'", "$PATH"), ('"$PATH"', "/bin"), ("5$", "5$"), ("$-", "$-"), ("a'b\"c'd", 'ab"cd'),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert environment.expand(text, VARIABLES) == expected


@pytest.mark.parametrize("text", ["${", "${}", "${PATH", "${PATH:=x}", "${PATH:?x}"])
def test_expand_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a variable"):
        environment.expand(text, VARIABLES)


def test_env_merge_sees_the_image_and_env_wins() -> None:
    options = {"env_merge": ["PATH=${PATH}:/opt", "NEW=${hello}-some"], "env": ["NEW=mine"], "http_proxy": False}
    found = environment.environment(options, ["hello=world", "PATH=/image"], {})
    assert "PATH=/image:/opt" in found and "NEW=mine" in found and "hello=world" in found


def test_changes_of_update() -> None:
    options = {"env": ["A=1", "B", "C"], "unsetenv": ["D"]}
    assert environment.changes(options, {"B": "2"}) == {"D": None, "A": "1", "B": "2"}
    assert environment.changes({}) == {}
    for wrong in ({"env": ["=x"]}, {"unsetenv": ["A=1"]}, {"unsetenv": [""]}, {"env": ["A=1"], "unsetenv": ["A"]}):
        with pytest.raises(UsageError):
            environment.changes(wrong)


@pytest.mark.parametrize(
    ("options", "command", "expected"),
    [
        ({}, ["/sbin/init"], True), ({}, ["/usr/lib/systemd/systemd", "--user"], True), ({}, ["systemd"], True), ({}, ["sh"], False),
        ({}, ["init"], False), ({"systemd": "false"}, ["/sbin/init"], False), ({"systemd": "always"}, ["sh"], True),
        ({"systemd": "true"}, ["/usr/local/sbin/init"], True),
    ],
)
def test_systemd_mode(options: dict[str, Any], command: list[str], expected: bool) -> None:
    assert systemd.wanted(options, command) is expected


def test_security_options() -> None:
    chosen = security.security_options(["proc-opts=hidepid=2,subset=pid", "systempaths=unconfined", "no-new-privileges:true"])
    assert chosen.proc == ["hidepid=2", "subset=pid"] and chosen.no_new_privileges
    assert security.paths_to_hide(chosen, False) == ([], [])
    for text in ("systempaths=x", "proc-opts=", "label=nested", "label=user:x", "bogus"):
        with pytest.raises((UsageError, UnsupportedError)):
            security.security_options([text])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\napp:x:1000:\n")
    return tmp_path


def entries(root: Path, config: dict[str, Any], host_uid: int | None = None) -> tuple[list[str], list[str], str]:
    """(new lines of passwd, of group, HOME) for the user of *config*."""
    whole: Any = {"user": "", "userns": "", "workdir": "/w", "mounts": [], "options": {}, "group_add": [], "uid_map": [(0, 0, 70000)],
                  "gid_map": [(0, 0, 70000)], **config}
    context = Context()
    context.rootfs = str(root)
    identity.lookup(whole, context)
    identity.write_entries(whole, context, str(root), (-1, -1), host_uid)
    found = []
    for file in ("passwd", "group"):
        mounted = [source for source, target in context.binds if target == f"/etc/{file}"]
        old = (root / "etc" / file).read_text()
        text = Path(mounted[0]).read_text() if mounted else old
        assert text.startswith(old)
        found.append(text.removeprefix(old).splitlines())
    return found[0], found[1], context.home


ENTRIES = [
    ({}, [], [], "/root"),
    ({"user": "app"}, [], [], "/home/app"),
    ({"user": "1000"}, [], [], "/home/app"),
    ({"user": "77"}, ["77:*:77:0:container user:/w:/bin/sh"], [], "/w"),
    ({"user": "77:88"}, ["77:*:77:88:container user:/w:/bin/sh"], ["88:x:88:77"], "/w"),
    ({"user": "app:88"}, [], ["88:x:88:app"], "/home/app"),
    ({"user": "77:88", "options": {"passwd": False}}, [], [], "/"),
    ({"user": "77", "options": {"passwd_entry": "$USERNAME:$UID:$GID:$NAME:$HOME:x:y"}}, ["77:77:0:container user:/w:x:y"], [], "/w"),
    ({"user": "77:88", "options": {"group_entry": "g$GROUPNAME:$GID:$USERLIST:z"}}, ["77:*:77:88:container user:/w:/bin/sh"],
     ["g88:88:77:z"], "/w"),
    ({"userns": "keep-id", "user": "5:6"}, ["user:*:5:6:user:/w:/bin/sh"], ["user:x:6:"], "/w"),
    ({"host_users": [("me", 500, 501, "Me", "/home/me")]}, ["me:*:500:501:Me:/w:/bin/sh"], [], "/root"),
    ({"host_users": [("me", 500, 501, "Me", "/home/me")], "user": "me", "mounts": [{"type": "bind", "destination": "/home"}]},
     ["me:*:500:501:Me:/home/me:/bin/sh"], ["501:x:501:me"], "/home/me"),
    ({"host_users": [("app", 500, 501, "", "/x"), ("x", 1000, 1, "", "/x")]}, [], [], "/root"),
]


@pytest.mark.parametrize(("config", "passwd", "group", "home"), ENTRIES)
def test_entries(root: Path, config: dict[str, Any], passwd: list[str], group: list[str], home: str) -> None:
    assert entries(root, config) == (passwd, group, home)


def test_keep_id_has_the_name_of_the_caller(root: Path) -> None:
    passwd, group, _ = entries(root, {"userns": "keep-id", "user": "1:1"}, 1)
    assert passwd[0].startswith("daemon:*:1:1:") and group == ["daemon:x:1:"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group_add": ["keep-groups", "5"]}, "keep-groups"), ({"passwd_entry": "a:b"}, "7 fields"), ({"group_entry": "a"}, "4 fields"),
        ({"passwd_entry": "a:b:c:d:e:f\nx:g"}, "7 fields"), ({"passwd": False, "group_entry": "a:b:c:d"}, "--passwd=false"),
    ],
)
def test_flags_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        accounts.check(options)

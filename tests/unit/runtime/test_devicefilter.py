"""The device filter: what the compiler makes, as an interpreter and as the kernel runs it."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RlError, UnsupportedError
from rl.kernel import bpf
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import devicefilter

DENY_ALL = {"allow": False, "access": "rwm"}
BLOCK, CHAR = 1, 2
BITS = {"m": 1, "r": 2, "w": 4}


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """What the kernel's eBPF machine returns for struct bpf_cgroup_dev_ctx."""
    code = [struct.unpack_from("=BBhi", program, offset) for offset in range(0, len(program), 8)]
    context = struct.pack("=III", access << 16 | kind, major, minor)
    registers: list[int] = [0] * 11
    position, word = 0, (1 << 64) - 1
    while True:
        operation, both, offset, immediate = code[position]
        target, source = both & 15, both >> 4
        position += 1
        if operation == 0x61:
            assert source == 1 and 0 <= offset <= 8
            registers[target] = struct.unpack_from("=I", context, offset)[0]
        elif operation == 0xB7:
            registers[target] = immediate & word
        elif operation == 0xBF:
            registers[target] = registers[source]
        elif operation == 0x57:
            registers[target] &= immediate & word
        elif operation == 0x77:
            registers[target] >>= immediate
        elif operation == 0x05:
            position += offset
        elif operation == 0x55:
            position += offset if registers[target] != immediate & word else 0
        elif operation == 0x45:
            position += offset if registers[target] & immediate & word else 0
        elif operation == 0x95:
            return registers[0]
        else:
            raise AssertionError(f"operation {operation:#x}")


def decision(rules: list[dict[str, Any]], kind: int, access: int, major: int, minor: int) -> int:
    """The rules read one after the other, for each kind of access by itself."""
    allowed = dict.fromkeys(BITS, False)
    for rule in [*rules, *devicefilter.DEFAULT_RULES]:
        if rule.get("type", "a") not in ("a", {BLOCK: "b", CHAR: "c"}[kind]):
            continue
        if rule.get("major", -1) not in (-1, major) or rule.get("minor", -1) not in (-1, minor):
            continue
        for letter in rule.get("access") or "rwm":
            allowed[letter] = rule["allow"]
    return int(all(allowed[letter] for letter, bit in BITS.items() if access & bit))


def test_compiled_rules_mean_what_they_say() -> None:
    seed = random.randrange(1 << 32)
    generator = random.Random(seed)
    numbers = [-1, 0, 1, 5, 8, 136, 4095]
    for _ in range(300):
        rules = []
        for _ in range(generator.randrange(8)):
            rule: dict[str, Any] = {"allow": generator.random() < 0.5}
            if generator.random() < 0.9:
                rule["type"] = generator.choice("abcc")
            for name in ("major", "minor"):
                if generator.random() < 0.7:
                    rule[name] = generator.choice(numbers)
            if generator.random() < 0.9:
                rule["access"] = "".join(letter for letter in "rwm" if generator.random() < 0.6)
            rules.append(rule)
        program = devicefilter.compile_rules(rules)
        for kind in (BLOCK, CHAR):
            for access in range(1, 8):
                for major in (0, 1, 5, 8, 136, 4095):
                    minor = generator.choice(numbers[1:])
                    got = run(program, kind, access, major, minor)
                    assert got == decision(rules, kind, access, major, minor), (seed, rules, kind, access, major, minor)


@pytest.mark.parametrize(
    ("rules", "allowed", "refused"),
    [
        ([], [(CHAR, 6, 1, 3), (CHAR, 6, 136, 7), (CHAR, 1, 10, 229)], [(CHAR, 2, 1, 11), (BLOCK, 2, 8, 0)]),
        ([{"allow": True}], [(CHAR, 7, 1, 11), (BLOCK, 7, 8, 0)], []),
        ([{"allow": True}, DENY_ALL], [(CHAR, 6, 1, 5)], [(CHAR, 2, 1, 11)]),
        # A rule about writing says nothing about reading, and reading and writing at once needs both.
        ([DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}],
         [(CHAR, 2, 1, 11)], [(CHAR, 4, 1, 11), (CHAR, 6, 1, 11)]),
        ([{"allow": True}, {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"}],
         [(CHAR, 2, 1, 11)], [(CHAR, 4, 1, 11), (CHAR, 6, 1, 11)]),
        ([DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"},
          {"allow": True, "type": "c", "major": 1, "access": "w"}], [(CHAR, 6, 1, 11), (CHAR, 4, 1, 1)], [(CHAR, 2, 1, 1)]),
        # No hole in the default devices, whatever is asked.
        ([{"allow": False, "type": "c", "major": 1, "minor": 3}], [(CHAR, 6, 1, 3)], [(BLOCK, 2, 1, 3)]),
        ([DENY_ALL, {"allow": True, "type": "b", "major": 8, "minor": -1}], [(BLOCK, 7, 8, 17)], [(CHAR, 2, 8, 17)]),
    ],
)  # fmt: skip
def test_rules(rules: list[dict[str, Any]], allowed: list[Any], refused: list[Any]) -> None:
    program = devicefilter.compile_rules(rules)
    assert [run(program, *request) for request in allowed] == [1] * len(allowed)
    assert [run(program, *request) for request in refused] == [0] * len(refused)


@pytest.mark.parametrize(
    ("rule", "text"),
    [({"type": "x"}, "type 'x'"), ({"major": 5000}, "major 5000"), ({"minor": -7}, "minor -7"),
     ({"access": "rx"}, "access 'rx'")],
)  # fmt: skip
def test_wrong_rules(rule: dict[str, Any], text: str) -> None:
    with pytest.raises(RlError, match=text):
        devicefilter.compile_rules([{"allow": True, **rule}])


# The kernel


def in_child(action: Callable[[], str], *, unshare: int = 0) -> str:
    """What *action* returned in a child process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            if unshare:
                ns.unshare(unshare)
            os.write(write, action().encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read, encoding="utf-8") as file:
        return file.read()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A cgroup of its own in a cgroup v2 tree that only the children of this test see: its path, once mounted."""
    if os.getuid() != 0:
        pytest.skip("only root attaches device filters")
    if in_child(lambda: str(devicefilter.possible())) != "True":
        pytest.skip("this root may not load eBPF programs, or the kernel has none (CONFIG_CGROUP_BPF)")
    mounted = tmp_path / "cgroup"
    mounted.mkdir()
    group = mounted / f"rl-test-devices-{os.getpid()}"
    yield group

    def clean() -> str:
        mount_tree(group)
        for path in sorted(group.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        group.rmdir()
        return "gone"

    assert in_child(clean) == "gone"


def mount_tree(group: Path) -> None:
    ns.unshare(ns.CLONE_NEWNS)
    m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
    m.mount("cgroup2", str(group.parent), "cgroup2")
    group.mkdir(exist_ok=True)


def probe(group: Path) -> str:
    """What a process in the group may open: n(ull) z(ero) k(msg) for reading, K(msg) for writing, (t)un."""

    def inside() -> str:
        (group / "cgroup.procs").write_text("0")
        found = ""
        for letter, path, flags in (
            ("n", "/dev/null", os.O_RDWR), ("z", "/dev/zero", os.O_RDONLY), ("k", "/dev/kmsg", os.O_RDONLY),
            ("K", "/dev/kmsg", os.O_WRONLY), ("t", "/dev/net/tun", os.O_RDWR),
        ):
            try:
                os.close(os.open(path, flags))
                found += letter
            except PermissionError:
                pass
        return found

    return in_child(inside)


KMSG = {"allow": True, "type": "c", "major": 1, "minor": 11}


def test_the_filter_holds_and_can_be_changed(tree: Path) -> None:
    def steps() -> str:
        mount_tree(tree)
        found = [probe(tree)]
        for rules in ([DENY_ALL], [DENY_ALL, {**KMSG, "access": "r"}], [DENY_ALL, KMSG], [{"allow": True}], [DENY_ALL]):
            devicefilter.apply(str(tree), rules)
            found.append(probe(tree))
        cgroup = os.open(tree, os.O_RDONLY)
        names = [name for _, name in bpf.device_filters(cgroup)]
        return " ".join(found) + f" {names}"

    assert in_child(steps) == "nzkKt nz nzk nzkK nzkKt nz ['rl_devices']", "replaced, not piled up"


def test_a_filter_of_somebody_else_stays(tree: Path) -> None:
    def steps() -> str:
        mount_tree(tree)
        cgroup = os.open(tree, os.O_RDONLY)
        theirs = bpf.load_device_filter(devicefilter.compile_rules([DENY_ALL, {**KMSG, "access": "r"}]), "sd_devices")
        bpf.attach_device_filter(cgroup, theirs)
        for _ in range(2):
            devicefilter.apply(str(tree), [{"allow": True}])
        names = sorted(name for _, name in bpf.device_filters(cgroup))
        return f"{probe(tree)} {names}"

    assert in_child(steps) == "nzk ['rl_devices', 'sd_devices']"


def test_kernels_that_cannot_replace(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.6 (EINVAL): the new filter goes beside the old one, which is taken away."""
    attach = bpf.attach_device_filter

    def old(cgroup: int, program: int, replace: int = -1) -> None:
        if replace >= 0:
            raise OSError(22, "Invalid argument")
        attach(cgroup, program)

    monkeypatch.setattr(bpf, "attach_device_filter", old)

    def steps() -> str:
        mount_tree(tree)
        devicefilter.apply(str(tree), [DENY_ALL])
        devicefilter.apply(str(tree), [DENY_ALL, KMSG])
        cgroup = os.open(tree, os.O_RDONLY)
        return f"{probe(tree)} {len(bpf.device_filters(cgroup))}"

    assert in_child(steps) == "nzkK 1"


def test_a_filter_of_many_rules(tree: Path) -> None:
    rules = [DENY_ALL, *({"allow": True, "type": "c", "major": 10, "minor": n, "access": "rw"} for n in range(300))]

    def steps() -> str:
        mount_tree(tree)
        devicefilter.apply(str(tree), rules)
        return probe(tree)

    assert in_child(steps) == "nzt"


def test_where_it_cannot_be(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="not in a cgroup v2 tree"):
        devicefilter.apply(str(tmp_path), [])
    with pytest.raises(FileNotFoundError):
        devicefilter.apply(str(tmp_path / "none"), [])

    def no_power() -> str:
        mount_tree(tree)
        kp.capset(0, 0, 0)
        try:
            devicefilter.apply(str(tree), [])
        except UnsupportedError as error:
            return f"{devicefilter.possible()} {error.message} {error.hint}"
        return "applied"

    text = in_child(no_power)
    assert text.startswith("False device filter of") and "not permitted" in text and "real root" in text
    assert in_child(lambda: str(devicefilter.possible()), unshare=ns.CLONE_NEWUSER) == "False"

    def nothing_left() -> str:
        mount_tree(tree)
        return probe(tree)

    assert in_child(nothing_left) == "nzkKt"


def test_the_verifiers_words_are_told(tree: Path) -> None:
    with pytest.raises(OSError, match="R0"):
        bpf.load_device_filter(struct.pack("=BBhi", 0x95, 0, 0, 0), "broken")

"""The checker of config.json: each field of the schema, each contradiction, and documents of real programs."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rl.errors import UsageError
from rl.runtime import child, mountoptions, rlimits, scheduling, schema, seccomp, validate
from rl.runtime.program import creating, store, template
from unit.engine import test_oci
from unit.runtime.container_lab import specification

RECORDED = sorted((Path(__file__).parent / "configs").glob("*.json"))  # what Podman 4.3 handed to crun
GONE = ...  # deepcopy keeps it

#: rule: (strings that keep it, strings that do not)
STRINGS: dict[str, tuple[list[str], list[str]]] = {
    "absolute": (["/", "/a/b"], ["", "a", "./a"]),
    "absolute or empty": (["", "/proc/1/ns/net"], ["proc/1", "."]),
    "access": (["rwm", "", "r", "mw"], ["x", "rwx", "r w"]),
    "cgroup file": (["memory.high", "hugetlb.2MB.max"], ["memory", "", "../memory.max", ".max", "a/b.c"]),
    "clock": (["monotonic", "boottime"], ["", "realtime"]),
    "cpus": (["0", "0-3,7", "", " 1 , 2-2"], ["a", "3-1", "0-", "-1", "0,,1", "0-99999999999", "8192", "1-2-3", "²", " ", "1,"]),
    "filled": (["x"], [""]),
    "host name": (["", "box", "x" * 64], ["x" * 65, "é" * 33]),
    "interface": (["eth0", "x" * 15], ["", "x" * 16, "a/b", ".", "..", "a b", "a:1", "é" * 8]),
    "interface or empty": (["", "eth0"], ["x" * 16, "a/b"]),
    "no parent": (["", "/a/b", "user.slice:rl:x", "a..b"], ["..", "/a/../b", "a/.."]),
    "page size": (["2MB", "64KB", "1GB"], ["", "MB", "2", "2M", "0MB", "2mb", "-2MB", "²MB"]),
    "variable": (["A=b", "A=", "A=b=c"], ["A", "=b", ""]),
    "version": (
        ["1.0.0", "1.2.1", "1.0.2-dev", "1.1.0-rc.3+build", "1.3.0+dev"],
        ["", "1", "1.0", "2.0.0", "0.9.0", "1.x.0", "1.0.0.0", "1.-1.0", "01.0.0", "1.0.00", "v1.0.0", "1.².0"],
    ),
    "word": (["mlx5_0"], ["", "a b", "a\n"]),
}


def example(node: schema.Node) -> Any:
    """A value that keeps *node*, with every field there is."""
    kind = node[0]
    if kind == "object":
        return {name: example(inner) for name, inner in node[1].items() if inner[0] != "refused"}
    if kind == "map":
        return {STRINGS[node[2]][0][0]: example(node[1])}
    if kind == "list":
        return [example(node[1])]
    if kind == "text":
        return STRINGS[node[1]][0][0] if len(node) > 1 else "text"
    if kind == "enum":
        return node[1][-1]
    return node[2] if kind == "int" else True


def everywhere(node: schema.Node, path: str = "") -> list[tuple[str, schema.Node, bool]]:
    """(path in the example, node, whether it is required) of the whole schema."""
    found = []
    if node[0] == "object":
        for name, inner in node[1].items():
            found += [(f"{path}.{name}", inner, name in node[2]), *everywhere(inner, f"{path}.{name}")]
    elif node[0] == "map":
        below = f'{path}["{STRINGS[node[2]][0][0]}"]'
        found += [(below, node[1], False), *everywhere(node[1], below)]
    elif node[0] == "list":
        found += [(f"{path}[0]", node[1], False), *everywhere(node[1], f"{path}[0]")]
    return found


def steps(path: str) -> list[Any]:
    """``a.b[0]["c"]`` → a, b, 0, c."""
    found = re.findall(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|\.?([^.\[]+)', path)
    return [int(index) if index else name or key for key, index, name in found]


def put(document: Any, path: str, value: Any) -> None:
    """Set (or with GONE remove) what is at *path*; objects on the way are made."""
    *way, last = steps(path)
    for step in way:
        if isinstance(document, dict) and step not in document:
            document[step] = {}
        document = document[step]
    if value is GONE:
        del document[last]
    elif isinstance(document, list) and last == len(document):
        document.append(value)
    else:
        document[last] = value


def problem(document: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        validate.check(document)
    assert caught.value.hint and "\n" not in caught.value.message and caught.value.message.isprintable()
    return caught.value


def wrong_values(node: schema.Node) -> list[Any]:
    """Values of a wrong type, and those out of range, for *node*."""
    kind = node[0]
    values: dict[str, list[Any]] = {
        "text": [5, True, 1.5, [], {}, "a\0b", "\ud800", "\udc80"],
        "int": ["1", True, 1.0, float("nan"), [], {}, 2**70, -(2**70), 10**400],
        "bool": [0, 1, "true", [], {}],
        "enum": [5, True, [], {}, "NOPE", "a\0"],
        "list": [5, True, "x", {}],
        "object": [5, True, "x", []],
        "map": [5, True, "x", []],
        "refused": [{}, {"x": 1}, "x", 0],
    }
    if kind == "int":
        return [*values[kind], node[1] - 1, node[2] + 1]
    if kind == "text" and len(node) > 1:
        return values[kind] + STRINGS[node[1]][1]
    return values[kind]


PLACES = everywhere(schema.CONFIG)


def test_the_schema_is_whole() -> None:
    """Every rule is used and has examples; the names are those that the runtime knows."""
    used = {node[-1] for _, node, _ in PLACES if node[0] in ("text", "map") and len(node) > 1}
    assert used == set(validate.RULES) == set(STRINGS)
    assert len(PLACES) > 200
    assert set(schema.NAMESPACES) == set(child.NAMESPACES)
    assert {name.removeprefix("RLIMIT_") for name in schema.RLIMITS} == set(rlimits.NAMES)
    assert set(schema.POLICIES) == set(scheduling.POLICIES)
    assert set(schema.SCHEDULER_FLAGS) == set(scheduling.FLAGS)
    assert set(schema.IO_CLASSES) == set(scheduling.IO_CLASSES)
    assert set(schema.PERSONALITIES) == set(scheduling.PERSONALITIES)
    assert set(schema.PROPAGATION) == set(mountoptions.PROPAGATION)


@pytest.mark.parametrize(("path", "node", "required"), PLACES, ids=[place[0][1:] for place in PLACES])
def test_every_field(path: str, node: schema.Node, required: bool) -> None:
    whole = example(schema.CONFIG)
    for value in wrong_values(node):
        document = copy.deepcopy(whole)
        put(document, path, value)
        message = problem(document).message
        assert message.startswith(f"{path[1:]}: "), f"{value!r:.60}: {message}"
    if node[0] == "refused":
        return
    validate._walk(whole, schema.CONFIG)
    for absent in (GONE, None):
        if path.endswith("]"):
            break
        document = copy.deepcopy(whole)
        put(document, path, absent)
        if required:
            assert problem(document).message == f"{path[1:]}: missing"
        else:
            validate._walk(document, schema.CONFIG)  # the rest may miss it: that is no matter of types


@pytest.mark.parametrize("rule", sorted(STRINGS))
def test_rules(rule: str) -> None:
    good, bad = STRINGS[rule]
    test = validate.RULES[rule][0]
    assert [text for text in good if not test(text)] == [] and [text for text in bad if test(text)] == []


@pytest.mark.parametrize(("place", "rule"), [(path, node[2]) for path, node, _ in PLACES if node[0] == "map"])
def test_keys_of_maps(place: str, rule: str) -> None:
    inner = example(next(node for path, node, _ in PLACES if path == place)[1])
    for key in (*STRINGS[rule][1], "\0", "\ud800"):
        document = example(schema.CONFIG)
        put(document, place, {key: inner})
        assert problem(document).message.startswith(place[1:] + "[")


@pytest.mark.parametrize("document", [None, [], "x", 1, True, {}, {"ociVersion": "1.0.0"}])
def test_no_specification_at_all(document: Any) -> None:
    assert problem(document).message.startswith(("config.json: must be an object", "ociVersion: missing", "process: missing"))


def base() -> dict[str, Any]:
    return specification(["true"])


USER = {"linux.namespaces[6]": {"type": "user"}}
MAP = {"containerID": 0, "hostID": 1000, "size": 10}
FIFO = {"policy": "SCHED_FIFO"}
BIND = {"destination": "/x", "type": "bind", "source": "/tmp", "options": ["rbind"]}

#: (changes of a valid document, how the message begins)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"process.user.uid": "root"}, 'process.user.uid: must be a number from 0 to 4294967294, not "root"'),
    ({"process.user.uid": 4294967295}, "process.user.uid: must be a number from 0 to 4294967294, not 4294967295"),
    ({"process.user.gid": True}, "process.user.gid: must be a number from 0 to 4294967294, not true"),
    ({"process.oomScoreAdj": None, "process.cwd": None}, "process.cwd: missing"),
    ({"process.cwd": "tmp"}, 'process.cwd: must be an absolute path, not "tmp"'),
    ({"process.args": []}, "process.args: must not be empty"),
    ({"process.args": GONE}, "process.args: missing"),
    ({"process": None}, "process: missing"),
    ({"root": GONE}, "root: missing"),
    ({"root.path": ""}, "root.path: must not be empty"),
    ({"process.env": ["A"]}, 'process.env[0]: must be NAME=VALUE, not "A"'),
    ({"process.capabilities.ambient": ["CAP_KILL", 5]}, "process.capabilities.ambient[1]: must be a string, not 5"),
    ({"process.terminal": True, "process.consoleSize": {"height": 70000, "width": 1}}, "process.consoleSize.height: must be a number from 0 to 65535"),
    ({"process.rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}, "process.rlimits[0].soft: must not be above the hard limit of 1: 2"),
    ({"process.rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}, "process.rlimits[1].type: RLIMIT_CPU is listed twice"),
    ({"process.rlimits": [{"type": "CPU", "soft": 1, "hard": 1}]}, "process.rlimits[0].type: must be one of RLIMIT_AS, "),
    ({"process.scheduler": {**FIFO}}, "process.scheduler.priority: must be a number from 1 to 99 with SCHED_FIFO"),
    ({"process.scheduler": {**FIFO, "priority": 100}}, "process.scheduler.priority: must be"),
    ({"process.scheduler": {"policy": "SCHED_OTHER", "priority": 1}}, "process.scheduler.priority: has no meaning with SCHED_OTHER"),
    ({"process.scheduler": {**FIFO, "priority": 1, "runtime": 1}}, "process.scheduler.runtime: has no meaning with SCHED_FIFO"),
    ({"process.scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, "process.scheduler.nice: must be a number from -20 to 19"),
    ({"process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, "process.ioPriority.priority: must be a number from 0 to 7"),
    ({"process.execCPUAffinity": {"initial": "7-3"}}, "process.execCPUAffinity.initial: must be a list"),
    ({"hostname": "x" * 65}, "hostname: must be of 64 bytes at most"),
    ({"linux.namespaces[2]": {"type": "ipc2"}}, "linux.namespaces[2].type: must be one of cgroup, ipc, "),
    ({"linux.namespaces[2]": {"type": "ipc"}}, "linux.namespaces[2].type: namespace ipc is listed twice"),
    ({"linux.namespaces[2]": GONE}, "hostname: needs a UTS namespace"),
    ({"linux.namespaces[2]": GONE, "hostname": "", "domainname": "d"}, "domainname: needs a UTS namespace"),
    ({"linux.namespaces[3]": GONE}, "linux.namespaces: a container needs a mount namespace of its own"),
    ({"linux.namespaces[3].path": "/proc/1/ns/mnt"}, "linux.namespaces[3].path: joining a mount namespace is not supported"),
    ({"linux.namespaces[5].path": "net"}, "linux.namespaces[5].path: must be an absolute path"),
    ({"linux": GONE}, "linux.namespaces: a container needs a mount namespace"),
    ({"linux": GONE, "windows": {"layerFolders": []}}, "windows: this container is not for Linux"),
    ({"vm": {"kernel": {"path": "/x"}}}, "vm: virtual machines are not supported"),
    (USER, "linux.uidMappings: missing, and there is a new user namespace"),
    ({**USER, "linux.uidMappings": [MAP]}, "linux.gidMappings: missing"),
    ({"linux.uidMappings": [MAP]}, "linux.uidMappings: needs a user namespace"),
    ({**USER, "linux.uidMappings": [{**MAP, "size": 0}]}, "linux.uidMappings[0].size: must be a number from 1"),
    ({**USER, "linux.uidMappings": [{**MAP, "hostID": 2**32 - 5}]}, "linux.uidMappings[0].size: hostID and size reach beyond"),
    ({**USER, "linux.uidMappings": [MAP, {**MAP, "hostID": 5000, "containerID": 9}]}, "linux.uidMappings[1].containerID: overlaps with linux.uidMappings[0]"),
    ({**USER, "linux.uidMappings": [{**MAP, "containerID": 10}, {**MAP, "hostID": 991}]}, "linux.uidMappings[0].hostID: overlaps with linux.uidMappings[1]"),
    ({**USER, "linux.uidMappings": [MAP] * 341}, "linux.uidMappings: has 341 ranges"),
    ({"linux.timeOffsets": {"boottime": {"secs": 1}}}, "linux.timeOffsets: needs a new time namespace"),
    ({"linux.namespaces[6]": {"type": "time", "path": "/proc/1/ns/time"}, "linux.timeOffsets": {"boottime": {"secs": 1}}}, "linux.timeOffsets: needs a new time namespace"),
    ({"linux.devices": [{"type": "c", "path": "/dev/x", "major": 1}]}, "linux.devices[0].minor: missing, and the device is of type c"),
    ({"linux.devices": [{"type": "x", "path": "/dev/x"}]}, "linux.devices[0].type: must be one of b, c, p, u"),
    ({"linux.devices": [{"type": "c", "path": "dev/x", "major": 1, "minor": 1}]}, "linux.devices[0].path: must be an absolute path"),
    ({"linux.namespaces[5]": GONE, "linux.netDevices": {"eth0": {}}}, "linux.netDevices: needs a network namespace"),
    ({"linux.netDevices": {"eth0": {"name": "eth1"}, "eth1": {}}}, 'linux.netDevices["eth1"].name: "eth0" gets this name too'),
    ({"linux.sysctl": {"net.ipv4.ip_forward": 1}}, 'linux.sysctl["net.ipv4.ip_forward"]: must be a string, not 1'),
    ({"linux.sysctl": {"vm.swappiness": "1"}}, 'linux.sysctl["vm.swappiness"]: does not belong to a namespace'),
    ({"linux.sysctl": {"net/../vm/swappiness": "1"}}, 'linux.sysctl["net/../vm/swappiness"]: does not belong'),
    ({"linux.sysctl": {"net": "1"}}, 'linux.sysctl["net"]: does not belong'),
    ({"linux.namespaces[5]": GONE, "linux.sysctl": {"net.x": "1"}}, 'linux.sysctl["net.x"]: needs a namespace of type network'),
    ({"linux.namespaces[1]": GONE, "linux.sysctl": {"kernel.shmmax": "1"}}, 'linux.sysctl["kernel.shmmax"]: needs a namespace of type ipc'),
    ({"linux.sysctl": {"kernel.hostname": "x"}}, 'linux.sysctl["kernel.hostname"]: hostname sets this already'),
    ({"domainname": "d", "linux.sysctl": {"kernel.domainname": "x"}}, 'linux.sysctl["kernel.domainname"]: domainname sets this already'),
    ({"linux.personality": {"domain": "BSD"}}, "linux.personality.domain: must be one of LINUX, LINUX32"),
    ({"linux.personality": {"domain": "LINUX", "flags": ["X"]}}, "linux.personality.flags: there are no flags"),
    ({"linux.rootfsPropagation": "up"}, "linux.rootfsPropagation: must be one of private, "),
    ({"linux.cgroupsPath": "/a/../../b"}, 'linux.cgroupsPath: must not have ".." in it'),
    ({"linux.intelRdt": {}}, "linux.intelRdt: Intel RDT is not supported"),
    ({"linux.memoryPolicy": {"mode": "MPOL_BIND"}}, "linux.memoryPolicy: memory policies are not supported"),
    ({"linux.maskedPaths": ["proc/x"]}, "linux.maskedPaths[0]: must be an absolute path"),
    ({"linux.seccomp": {}}, "linux.seccomp.defaultAction: missing"),
    ({"linux.seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [5]}}, "linux.seccomp.syscalls[0]: must be an object"),
    ({"linux.resources": {"memory": {"limit": 100, "swap": 50}}}, "linux.resources.memory.swap: must not be below the memory limit of 100: 50"),
    ({"linux.resources": {"memory": {"limit": -2}}}, "linux.resources.memory.limit: must be a number from -1"),
    ({"linux.resources": {"memory": {"limit": 10.5}}}, "linux.resources.memory.limit: must be a number from -1 to 9223372036854775807, not 10.5"),
    ({"linux.resources": {"blockIO": {"weight": 5}}}, "linux.resources.blockIO.weight: must be a number from 10 to 1000, or 0: 5"),
    ({"linux.resources": {"blockIO": {"weightDevice": [{"major": 1, "minor": 1, "leafWeight": 1001}]}}}, "linux.resources.blockIO.weightDevice[0].leafWeight: must be"),
    ({"linux.resources": {"rdma": {"mlx": {}}}}, 'linux.resources.rdma["mlx"]: needs hcaHandles or hcaObjects'),
    ({"linux.resources": {"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}}, "linux.resources.hugepageLimits[0].pageSize: must be a size"),
    ({"mounts": [{"destination": "/x", "source": "x"}]}, "mounts[0].type: missing, and it is not a bind mount"),
    ({"mounts": [{**BIND, "source": ""}]}, "mounts[0].source: missing, and it is a bind mount"),
    ({"mounts": [{**BIND, "uidMappings": [MAP]}]}, "mounts[0].gidMappings: missing: a mount has mappings of both kinds or none"),
    ({"mounts": [{**BIND, "gidMappings": [MAP]}]}, "mounts[0].uidMappings: missing"),
    ({"mounts": [{**BIND, "options": "ro"}]}, 'mounts[0].options: must be an array, not "ro"'),
    ({"mounts": [{**BIND, "options": ["ro", None]}]}, "mounts[0].options[1]: must be a string, not null"),
    ({"mounts": {}}, "mounts: must be an array, not an object"),
    ({"hooks.prestart": [{"path": "bin/x"}]}, "hooks.prestart[0].path: must be an absolute path"),
    ({"hooks.poststop": [{"path": "/x", "timeout": 0}]}, "hooks.poststop[0].timeout: must be a number from 1"),
    ({"hooks.startContainer": [{"path": "/x", "args": [""]}]}, "hooks.startContainer[0].args[0]: must not be empty"),
    ({"hooks.startContainer": {}}, "hooks.startContainer: must be an array"),
    ({"annotations": {"a": 1}}, 'annotations["a"]: must be a string, not 1'),
    ({"annotations": {"": "x"}}, 'annotations[""]: as a name it must not be empty'),
    ({"ociVersion": "2.0.0"}, "ociVersion: must be a version 1.x.y of the OCI runtime specification"),
    ({"process.args": ["x" * 200 + "\n", {"a": [1]}]}, "process.args[1]: must be a string, not an object"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "begin"), REFUSED, ids=[begin.partition(" ")[0] + str(n) for n, (_, begin) in enumerate(REFUSED)])
def test_refused(changes: dict[str, Any], begin: str) -> None:
    document = base()
    validate.check(document)
    for path, value in changes.items():
        put(document, path, copy.deepcopy(value))
    assert problem(document).message.startswith(begin)


ACCEPTED: list[dict[str, Any]] = [
    {"process.user": GONE},  # root, as with every other runtime
    {"process.user.umask": 0o27, "process.user.additionalGids": [1, 2], "process.user.username": "x"},
    {"process.consoleSize": {"height": 70000, "width": 1}},  # "MUST be ignored" without a terminal
    {"process.rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2**64 - 1}]},
    {"process.scheduler": {"policy": "SCHED_BATCH", "nice": -20, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}},
    {"process.scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 2**63}},
    {"process.capabilities": {"bounding": ["CAP_NEVER_HEARD_OF"]}},
    {"process.oomScoreAdj": -1000, "process.ioPriority": {"class": "IOPRIO_CLASS_IDLE"}},
    {"linux.namespaces[6]": {"type": "user", "path": "/proc/1/ns/user"}, "linux.uidMappings": [MAP], "linux.gidMappings": [MAP]},
    {"linux.namespaces[6]": {"type": "time"}, "linux.timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 999999999}}},
    {"linux.devices": [{"type": "p", "path": "/dev/fifo"}, {"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 8630}]},
    {"linux.sysctl": {"net.ipv4.conf.all.forwarding": "1", "net/ipv4/conf/eth0.1/forwarding": "0", "kernel.domainname": "x", "fs.mqueue.msg_max": "5", "kernel.sem": "1 2 3 4"}},
    {"linux.resources": {"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "cpus": "0-1"}, "pids": {"limit": -1}, "devices": [{"allow": False, "major": -1}]}},
    {"hostname": GONE, "linux.sysctl": {"kernel.hostname": "x"}},
    {"linux.netDevices": {"eth0": {"name": "eth1"}, "eth1": {"name": "eth0"}, "x": {}, "y": {"name": "dev%d"}, "z": {"name": "dev%d"}}},
    {"linux.personality": {"domain": "LINUX32", "flags": []}, "linux.rootfsPropagation": "rslave", "linux.cgroupsPath": "user.slice:rl:x"},
    {"mounts": [{"destination": "/x", "options": ["remount", "bind", "ro"]}]},
    {"mounts": [{"destination": "x", "type": "tmpfs"}, {**BIND, "uidMappings": [MAP], "gidMappings": [MAP]}]},
    {"mounts": None, "hooks": None, "annotations": None, "hostname": None, "linux.resources": None, "linux.seccomp": None},
    {"hooks": {"prestart": None, "poststop": [{"path": "/x", "args": [], "env": ["A=b"], "timeout": 5}], "unheardOf": 5}},
    {"x-unheard-of": {"a": [1]}, "linux.also": 1, "process.this": None, "mounts[0].and": "that"},
    {"windows": {"layerFolders": []}},  # a section for another system beside ours
    {"process.args": [""], "process.env": []},
]  # fmt: skip


@pytest.mark.parametrize("changes", ACCEPTED, ids=[next(iter(changes)) + str(n) for n, changes in enumerate(ACCEPTED)])
def test_accepted(changes: dict[str, Any]) -> None:
    document = base()
    for path, value in changes.items():
        put(document, path, copy.deepcopy(value))
    before = copy.deepcopy(document)
    validate.check(document)
    assert document == before
    validate.warnings(document)


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_documents_of_podman(path: Path) -> None:
    document = json.loads(path.read_text())
    validate.check(document)
    assert validate.warnings(document) == []


@pytest.mark.parametrize(
    "command", [["runc", "spec"], ["runc", "spec", "--rootless"], ["crun", "spec"]], ids=" ".join
)
def test_documents_of_others(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    validate.check(json.loads((tmp_path / "config.json").read_text()))


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({}, {}),
        ({"privileged": True, "devices": ["/dev/null:/dev/x"]}, {}),
        ({"ulimits": ["nofile=5:-1"], "sysctl": {"net.ipv4.ip_forward": "1"}, "terminal": True}, {"uid": 5, "gid": 6, "namespaces": {"network": "/proc/1/fd/5"}}),
        ({"uts_mode": "host", "ipc_mode": "host", "pid_mode": "host"}, {"resources": {"pids": {"limit": 1}}}),
    ],
)
def test_documents_of_the_engine(changes: dict[str, Any], context: dict[str, Any]) -> None:
    document = test_oci.spec(test_oci.config(**changes), test_oci.context(**context))
    document["linux"]["seccomp"] = seccomp.default_profile(document["process"]["capabilities"]["bounding"])
    validate.check(document)
    assert validate.warnings(document) == []


def test_own_templates() -> None:
    for rootless in (True, False):
        validate.check(template.document(rootless, 1000, 1000))


def test_warnings() -> None:
    document = base()
    document["mounts"].append({"destination": "rel", "type": "tmpfs"})
    validate.check(document)
    (only,) = validate.warnings(document)
    assert only.startswith(f'mounts[{len(document["mounts"]) - 1}].destination: "rel" is relative')


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"args": ["x"], "cwd": "/"}, ""),
        ({"args": [], "cwd": "/"}, "process.args: must not be empty"),
        ({"args": ["x"], "cwd": "x"}, "process.cwd: must be an absolute path"),
        ({"args": ["x"], "cwd": "/", "user": {"uid": -1}}, "process.user.uid: must be"),
        ({"args": ["x"], "cwd": "/", "rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}, "process.rlimits[0].soft: must"),
        ([], "process: must be an object, not an array"),
        (None, "process: must be an object, not null"),
    ],
)
def test_a_process_alone(document: Any, message: str) -> None:
    if not message:
        validate.check_process(document)
        return
    with pytest.raises(UsageError) as caught:
        validate.check_process(document)
    assert caught.value.message.startswith(message)
    assert "config.json" not in caught.value.hint


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, ""),
        ({"memory": {"limit": 5}}, ""),
        ({"memory": {"limit": "5"}}, 'resources.memory.limit: must be a number from -1 to 9223372036854775807, not "5"'),
        ({"memory": {"limit": 5, "swap": 4}}, "resources.memory.swap: must not be below"),
        ({"cpu": {"idle": 2}}, "resources.cpu.idle: must be a number from 0 to 1, not 2"),
        ("x", 'resources: must be an object, not "x"'),
    ],
)
def test_resources_alone(document: Any, message: str) -> None:
    if not message:
        validate.check_resources(document)
        return
    with pytest.raises(UsageError) as caught:
        validate.check_resources(document)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("good", ["a", "Web-1_x.y+z", "0", "-", "...", "x" * 255, "a..b"])
def test_good_ids(good: str) -> None:
    store.check_id(good)


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "/", "a/b", "../x", "/etc", "a b", "a\n", "\0", "é", "\ud800", "a:b", "x" * 256, "x" * 10_000, "²", "a\\b"]
)
def test_bad_ids(bad: str) -> None:
    with pytest.raises(UsageError) as caught:
        store.check_id(bad)
    assert caught.value.hint and len(caught.value.message) < 150 and caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value: line 1 column 1"),
        (b"{", ""),
        (b"{'a': 1}", "Expecting property name"),
        (b'{"a": 1} x', "extra data"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b'{"a": "x\ny"}', "Invalid control character"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b"1" * 5_000, "4300 digits"),
    ],
)
def test_files_that_are_no_json(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        creating.read_bundle(str(tmp_path))
    assert caught.value.message.startswith(f"read {path}: not a JSON document: ") and message in caught.value.message


def test_bundles_that_are_none(tmp_path: Path) -> None:
    """No config.json, one that is a directory, a root file system that is missing or a file."""
    with pytest.raises(UsageError, match="no such file"):
        creating.read_bundle(str(tmp_path))
    with pytest.raises(UsageError, match="no such file"):
        creating.read_bundle(f"{tmp_path}/missing")
    template.write(str(tmp_path), False)
    with pytest.raises(UsageError, match=r"^root\.path: .*/rootfs is not a directory$"):
        creating.read_bundle(str(tmp_path))
    (tmp_path / "rootfs").touch()
    with pytest.raises(UsageError, match=r"^root\.path: "):
        creating.read_bundle(str(tmp_path))
    (tmp_path / "rootfs").unlink()
    (tmp_path / "rootfs").mkdir()
    bundle, spec = creating.read_bundle(str(tmp_path))
    assert bundle == str(tmp_path) and spec == template.document(False, 0, 0)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        creating.read_bundle(str(tmp_path))


def test_numbers_and_nesting_of_any_size_are_shown_short() -> None:
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    for value in (10**5_000, -(10**5_000), deep, "x" * 10**6, 1e400, "\ud800" * 100):
        document = base()
        document["process"]["user"]["uid"] = value
        assert len(problem(document).message) < 500
        while isinstance(value, list) and value:  # taken apart from outside: freeing it at once would recurse
            value = value.pop()


def test_it_is_quick() -> None:
    """A bound that only a mistake breaks (it takes 0.15 ms where it was written): not 10 times the budget."""
    document = json.loads((Path(__file__).parent / "configs/podman-plain.json").read_text())
    best = 1.0
    for _ in range(20):
        begin = time.perf_counter()
        validate.check(document)
        best = min(best, time.perf_counter() - begin)
    assert best < 0.0015


def test_imports_are_light() -> None:
    code = "import sys; import rl.runtime.validate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert not {"re", "json", "enum", "typing", "dataclasses"} & set(done.stdout.split())

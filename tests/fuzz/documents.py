"""Documents to fuzz with: valid ones, and ways to change them, at random but the same in every run."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from rl.runtime import mountoptions, schema, seccomp
from rl.runtime.program import template
from unit.runtime.container_lab import CAPABILITIES, specification
from unit.runtime.test_validate import STRINGS

#: What means something somewhere in a configuration, or has been trouble elsewhere.
WORDS = [
    "", "/", ".", "..", "//", "/.", "/..", "/dev", "/dev/null", "/dev/pts/ptmx", "/proc", "/proc/self/fd/0", "/proc/self/exe", "/proc/1/ns/net",
    "/proc/self/ns/mnt", "/proc/self/ns/user", "/sys", "/sys/fs/cgroup", "/etc/passwd", "/bin/true", "/bin/sh", "/nonexistent", "/bin/true/x", "/tmp/../../etc",
    "/new/dir", "new", "/" + "x" * 300, "/x" * 3000, "x" * 200_000, "é", "\u202e", "\n", "a\nb", "\t", "%s%n", "{}", "A=b", "=", "A=", "=b", "PATH=", "HOME=/x",
    "LD_PRELOAD=/x", "tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "bind", "overlay", "ext4", "none", "fuse", "ramfs", "size=1k", "size=x", "size=-1",
    "mode=1777", "mode=99999", "gid=5", "uid=70000", "nr_inodes=0", "lowerdir=/", "subset=pid", "hidepid=2", "idmap", "ridmap", "copy-symlink", "true", "sh", "nosuchprogram",
    "CAP_SYS_ADMIN", "CAP_NONE", "cap_kill", "0", "0-1", "0-8191", "5-3", "1,2,", "net.ipv4.ip_forward", "net.core.somaxconn", "net/ipv4/conf/lo/forwarding",
    "net.nosuch.thing", "kernel.shmmax", "kernel.sem", "kernel.domainname", "fs.mqueue.msg_max", "unconfined", "system_u:system_r:container_t:s0", "lo", "eth0",
    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_NOTIFY", "SCMP_ACT_LOG", "SCMP_ARCH_X86", "SCMP_ARCH_MIPS", "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_NEW_LISTENER", "memory.high", "pids.max", "2MB", *mountoptions.known(),
]  # fmt: skip

NUMBERS = [0, 1, -1, 2, 5, 255, 1000, 4095, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30]

#: Any code point, halves of surrogate pairs too.
TEXT = st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec=None, exclude_categories=()), max_size=8))
INTEGERS = st.one_of(st.sampled_from(NUMBERS), st.integers())
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=10,
)
CLEAN = st.one_of(
    st.sampled_from([word for word in WORDS if "\0" not in word]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
)


def of_node(node: schema.Node) -> st.SearchStrategy[Any]:
    """Values that keep *node* of the schema: what gets past the checker."""
    kind = node[0]
    if kind == "bool":
        return st.booleans()
    if kind == "int":
        low, high = node[1], node[2]
        return st.one_of(
            st.sampled_from([number for number in {low, high, *NUMBERS} if low <= number <= high]), st.integers(low, high)
        )
    if kind == "enum":
        return st.sampled_from(node[1])
    if kind == "text":
        if len(node) == 1:
            return CLEAN
        from rl.runtime.validate import RULES

        test = RULES[node[1]][0]
        good = [word for word in [*STRINGS[node[1]][0], *WORDS] if test(word)]
        return st.sampled_from(good)
    if kind == "list":
        return st.lists(of_node(node[1]), max_size=3)
    if kind == "map":
        return st.dictionaries(of_node(("text", node[2])), of_node(node[1]), max_size=3)
    if kind == "object":
        fields = {name: of_node(inner) for name, inner in node[1].items() if inner[0] != "refused"}
        return st.fixed_dictionaries(
            {name: fields[name] for name in node[2]},
            optional={name: inner for name, inner in fields.items() if name not in node[2]},
        )
    return st.just({})


def bases() -> list[dict[str, Any]]:
    """Valid documents that make a container of the busybox of the lab."""
    plain = specification(["true"])
    plain["root"]["readonly"] = True
    nested = copy.deepcopy(plain)
    nested["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}]
    nested["linux"]["timeOffsets"] = {"monotonic": {"secs": 5}, "boottime": {"secs": 5, "nanosecs": 1}}
    for kind in ("uid", "gid"):
        nested["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
    full = copy.deepcopy(plain)
    full["process"] |= {
        "noNewPrivileges": True, "oomScoreAdj": 500, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}],
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
        "user": {"uid": 33, "gid": 33, "additionalGids": [44], "umask": 0o77}, "cwd": "/srv",
    }
    full["mounts"] += [
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=64k", "noatime"]},
        {"destination": "/srv/data", "type": "bind", "source": "data", "options": ["rbind", "ro", "rslave", "rnosuid"]},
        {"destination": "/srv/file", "type": "none", "source": "/etc/hostname", "options": ["bind"]},
    ]
    full["hooks"] = {
        kind: [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}] for kind in schema.HOOKS
    }
    full["annotations"] = {"a": "b"}
    full["domainname"] = "home"
    full["linux"] |= {
        "seccomp": seccomp.default_profile(CAPABILITIES), "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "4096"},
        "devices": [
            {"type": "c", "path": "/dev/also", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0},
            {"type": "p", "path": "/dev/fifo", "fileMode": 0o600},
        ],
        "rootfsPropagation": "private", "personality": {"domain": "LINUX"},
        "resources": {"memory": {"limit": 1 << 30}, "pids": {"limit": 50}, "devices": [{"allow": False, "access": "rwm"}]},
    }
    written = template.document(True, 0, 0)
    written["process"] |= {"terminal": False, "args": ["true"]}
    return [json.loads(json.dumps(document)) for document in (plain, nested, full, written)]  # they share lists


BASES = bases()


def as_user(document: dict[str, Any], user: tuple[int, int] | None) -> dict[str, Any]:
    """*document* for a (uid, gid) without privileges: in a user namespace in which those are 0, the only ids."""
    if user is not None:
        linux = document["linux"]
        linux["namespaces"] = [*(entry for entry in linux["namespaces"] if entry["type"] != "user"), {"type": "user"}]
        for kind, number in zip(("uid", "gid"), user, strict=True):
            linux[f"{kind}Mappings"] = [{"containerID": 0, "hostID": number, "size": 1}]
        document["process"]["user"] = {"uid": 0, "gid": 0}
    return document


def places(document: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of everything inside."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


@st.composite
def mutated(draw: st.DrawFn, user: tuple[int, int] | None = None) -> Any:
    """A valid document (of :func:`as_user`) after one to five arbitrary changes."""
    document: Any = as_user(copy.deepcopy(draw(st.sampled_from(BASES))), user)
    for _ in range(draw(st.integers(1, 5))):
        found = places(document)
        if not found:
            return draw(JSON)
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        change = draw(st.sampled_from(("delete", "replace", "replace", "swap", "double", "add", "deep", "whole")))
        if change == "delete":
            del holder[key]
        elif change == "replace":
            holder[key] = draw(JSON)
        elif change == "swap":
            other, place = found[draw(st.integers(0, len(found) - 1))]
            holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
        elif change == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif change == "add" and isinstance(holder, dict):
            holder[draw(TEXT)] = draw(JSON)
        elif change == "deep":
            holder[key] = nested = []
            for _ in range(draw(st.sampled_from((10, 300)))):
                nested.append([])
                nested = nested[0]
        elif change == "whole" and draw(st.integers(0, 9)) == 0:
            return draw(JSON)
    return document


def _nodes(node: schema.Node, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], schema.Node]]:
    """(way, node) of all fields of objects that are reached through objects."""
    found = []
    for name, inner in node[1].items():
        if inner[0] == "refused" or (path + (name,))[:1] == ("ociVersion",):
            continue
        found.append(((*path, name), inner))
        if inner[0] == "object":
            found += _nodes(inner, (*path, name))
    return found


_ACTIONS = st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_KILL", "SCMP_ACT_TRACE"])
#: linux.seccomp, whose inside the checker leaves to the compiler: right for the most part.
SECCOMP = st.fixed_dictionaries(
    {
        "defaultAction": st.just("SCMP_ACT_ALLOW"),
        "syscalls": st.lists(
            st.fixed_dictionaries(
                {
                    "names": st.one_of(st.lists(st.sampled_from(["swapon", "chown", "ptrace", "socket", "nosuch", ""])), JSON),
                    "action": st.one_of(_ACTIONS, _ACTIONS, _ACTIONS, JSON),
                },
                optional={
                    "errnoRet": st.one_of(INTEGERS, JSON),
                    "args": st.lists(
                        st.fixed_dictionaries(
                            {
                                "index": st.one_of(st.integers(0, 5), JSON), "value": st.one_of(INTEGERS, JSON),
                                "op": st.one_of(st.sampled_from(["SCMP_CMP_EQ", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ"]), JSON),
                            },
                            optional={"valueTwo": st.one_of(INTEGERS, JSON)},
                        ),
                        max_size=3,
                    ),
                },
            ),
            max_size=4,
        ),
    },
    optional={
        "architectures": st.lists(st.sampled_from(["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_MIPS", "x"])),
        "flags": st.lists(st.sampled_from(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC", "x"])),
        "listenerPath": CLEAN, "defaultErrnoRet": INTEGERS,
    },
)  # fmt: skip

_FIELDS = _nodes(schema.CONFIG)
#: Where a change would only make the container one without a file system, again and again.
_DULL = {("root",), ("root", "path"), ("linux",), ("process",), ("linux", "namespaces")}


@st.composite
def plausible(draw: st.DrawFn, user: tuple[int, int] | None = None) -> Any:
    """A valid document (of :func:`as_user`), one to three fields of which have other values of their type and range."""
    document: Any = as_user(copy.deepcopy(draw(st.sampled_from(BASES))), user)
    fields = [(way, node) for way, node in _FIELDS if way not in _DULL]
    fields += [field for field in fields if field[0][-1] in ("mounts", "seccomp", "devices", "sysctl", "hooks")] * 5
    for _ in range(draw(st.integers(1, 3))):
        way, node = draw(st.sampled_from(fields))
        holder = document
        for step in way[:-1]:
            holder = holder.setdefault(step, {})
            if not isinstance(holder, dict):
                return document
        value = draw(SECCOMP if way[-1] == "seccomp" else of_node(node))
        old = holder.get(way[-1])
        if isinstance(old, list) and isinstance(value, list) and draw(st.booleans()):
            value = old + value  # beside what makes it work
        holder[way[-1]] = value
    return document


@st.composite
def processes(draw: st.DrawFn) -> Any:
    """A process for `exec --process`, one to three fields of which have other values; now and then of a wrong type."""
    document: Any = copy.deepcopy(BASES[0]["process"])
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(schema.PROCESS[1])))
        document[name] = draw(JSON if draw(st.integers(0, 5)) == 0 else of_node(schema.PROCESS[1][name]))
    return document

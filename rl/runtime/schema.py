"""What an OCI config.json may hold, as plain data; :mod:`rl.runtime.validate` walks it.

A node is a tuple, its kind first:

| node | value |
|---|---|
| ``("bool",)`` | true or false |
| ``("int", low, high)`` | a whole number of that range |
| ``("text",)``, ``("text", rule)`` | a string; *rule* is a key of ``validate.RULES`` |
| ``("enum", names)`` | one of these strings |
| ``("list", node)`` | an array of such values |
| ``("map", node, rule)`` | an object of any keys, which follow *rule* |
| ``("object", {field: node}, required)`` | an object; fields not listed are ignored (config.md, "Extensibility") |
| ``("refused", why, hint)`` | a field of the specification that we cannot honour |

null means absent, as it does to the runtimes written in Go. Source: OCI runtime specification 1.3, config.md,
config-linux.md and the JSON schema beside them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Node = tuple[Any, ...]

CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
PROPAGATION = ("private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable")
RLIMITS = tuple(
    f"RLIMIT_{name}" for name in (
        "AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS",
        "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
    )
)
POLICIES = (
    "SCHED_BATCH", "SCHED_DEADLINE", "SCHED_FIFO", "SCHED_IDLE", "SCHED_ISO", "SCHED_OTHER", "SCHED_RR",
)
SCHEDULER_FLAGS = (
    "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_UTIL_CLAMP_MAX", "SCHED_FLAG_UTIL_CLAMP_MIN",
)
IO_CLASSES = ("IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE", "IOPRIO_CLASS_RT")
PERSONALITIES = ("LINUX", "LINUX32")

_BOOL: Node = ("bool",)
_TEXT: Node = ("text",)
_TEXTS: Node = ("list", _TEXT)
_UINT16: Node = ("int", 0, 2**16 - 1)
_UINT32: Node = ("int", 0, 2**32 - 1)
_UINT64: Node = ("int", 0, 2**64 - 1)
_INT32: Node = ("int", -(2**31), 2**31 - 1)
_INT64: Node = ("int", -(2**63), 2**63 - 1)
#: 2^32 - 1 is -1, which means "leave as it is" to setresuid(2): a container with that user would run as root.
_ID: Node = ("int", 0, 2**32 - 2)
#: Bytes; -1 is unlimited.
_LIMIT: Node = ("int", -1, 2**63 - 1)
#: What dev_t holds (linux/kdev_t.h).
_MAJOR: Node = ("int", 0, 2**12 - 1)
_MINOR: Node = ("int", 0, 2**20 - 1)
_WEIGHT: Node = _UINT16
_ENVIRONMENT: Node = ("list", ("text", "variable"))

_ID_MAPS: Node = (
    "list",
    ("object", {"containerID": _ID, "hostID": _ID, "size": ("int", 1, 2**32 - 1)}, ("containerID", "hostID", "size")),
)

PROCESS: Node = (
    "object",
    {
        "terminal": _BOOL,
        "consoleSize": ("object", {"height": _UINT32, "width": _UINT32}, ("height", "width")),
        "user": (
            "object",
            {
                "uid": _ID, "gid": _ID, "umask": ("int", 0, 0o777), "additionalGids": ("list", _ID), "username": _TEXT,
            },
            (),
        ),
        "args": _TEXTS,
        "commandLine": _TEXT,
        "env": _ENVIRONMENT,
        "cwd": ("text", "absolute"),
        "capabilities": ("object", dict.fromkeys(CAPABILITY_SETS, _TEXTS), ()),
        "rlimits": (
            "list",
            (
                "object", {"type": ("enum", RLIMITS), "soft": _UINT64, "hard": _UINT64}, ("type", "soft", "hard"),
            ),
        ),
        "noNewPrivileges": _BOOL,
        "apparmorProfile": _TEXT,
        "oomScoreAdj": ("int", -1000, 1000),
        "scheduler": (
            "object",
            {
                "policy": ("enum", POLICIES), "nice": ("int", -20, 19), "priority": _INT32,
                "flags": ("list", ("enum", SCHEDULER_FLAGS)),
                "runtime": _UINT64, "deadline": _UINT64, "period": _UINT64,
            },
            ("policy",),
        ),
        "selinuxLabel": _TEXT,
        "ioPriority": ("object", {"class": ("enum", IO_CLASSES), "priority": ("int", 0, 7)}, ("class",)),
        "execCPUAffinity": ("object", {"initial": ("text", "cpus"), "final": ("text", "cpus")}, ()),
    },
    ("args", "cwd"),
)

_MOUNT: Node = (
    "object",
    {
        "destination": ("text", "filled"), "type": _TEXT, "source": _TEXT, "options": _TEXTS,
        "uidMappings": _ID_MAPS, "gidMappings": _ID_MAPS,
    },
    ("destination",),
)

_HOOKS: Node = (
    "list",
    (
        "object",
        {
            "path": ("text", "absolute"), "args": _TEXTS, "env": _ENVIRONMENT,
            "timeout": ("int", 1, 2_000_000),  # seconds; poll(2) takes 2^31 ms
        },
        ("path",),
    ),
)

_DEVICE_NUMBERS: dict[str, Node] = {"major": _MAJOR, "minor": _MINOR}
_RATES: Node = ("list", ("object", {**_DEVICE_NUMBERS, "rate": _UINT64}, ("major", "minor", "rate")))

RESOURCES: Node = (
    "object",
    {
        "devices": (
            "list",
            (
                "object",
                {
                    "allow": _BOOL, "type": ("enum", ("", "a", "b", "c")), "major": ("int", -1, 2**32 - 1),
                    "minor": ("int", -1, 2**32 - 1), "access": ("text", "access"),
                },
                ("allow",),
            ),
        ),
        "memory": (
            "object",
            {
                "limit": _LIMIT, "reservation": _LIMIT, "swap": _LIMIT, "kernel": _LIMIT, "kernelTCP": _LIMIT,
                "swappiness": ("int", 0, 100), "disableOOMKiller": _BOOL, "useHierarchy": _BOOL,
                "checkBeforeUpdate": _BOOL,
            },
            (),
        ),
        "cpu": (
            "object",
            {
                "shares": _UINT64, "quota": _INT64, "burst": _UINT64, "period": _UINT64, "realtimeRuntime": _INT64,
                "realtimePeriod": _UINT64, "cpus": ("text", "cpus"), "mems": ("text", "cpus"), "idle": ("int", 0, 1),
            },
            (),
        ),
        "pids": ("object", {"limit": _INT64}, ()),
        "blockIO": (
            "object",
            {
                "weight": _WEIGHT, "leafWeight": _WEIGHT,
                "weightDevice": (
                    "list",
                    ("object", {**_DEVICE_NUMBERS, "weight": _WEIGHT, "leafWeight": _WEIGHT}, ("major", "minor")),
                ),
                "throttleReadBpsDevice": _RATES, "throttleWriteBpsDevice": _RATES,
                "throttleReadIOPSDevice": _RATES, "throttleWriteIOPSDevice": _RATES,
            },
            (),
        ),
        "hugepageLimits": (
            "list", ("object", {"pageSize": ("text", "page size"), "limit": _UINT64}, ("pageSize", "limit")),
        ),
        "network": (
            "object",
            {
                "classID": _UINT32,
                "priorities": (
                    "list",
                    ("object", {"name": ("text", "interface"), "priority": _UINT32}, ("name", "priority")),
                ),
            },
            (),
        ),
        "rdma": ("map", ("object", {"hcaHandles": _UINT32, "hcaObjects": _UINT32}, ()), "word"),
        "unified": ("map", _TEXT, "cgroup file"),
    },
    (),
)

#: The outside of it: what is in a rule is checked where it is compiled, once per profile (rl.runtime.seccomp).
_SECCOMP: Node = (
    "object",
    {
        "defaultAction": _TEXT, "defaultErrnoRet": _UINT32, "architectures": _TEXTS, "flags": _TEXTS,
        "listenerPath": _TEXT, "listenerMetadata": _TEXT, "syscalls": ("list", ("object", {}, ())),
    },
    ("defaultAction",),
)

LINUX: Node = (
    "object",
    {
        "namespaces": (
            "list", ("object", {"type": ("enum", NAMESPACES), "path": ("text", "absolute or empty")}, ("type",)),
        ),
        "uidMappings": _ID_MAPS,
        "gidMappings": _ID_MAPS,
        "timeOffsets": ("map", ("object", {"secs": _INT64, "nanosecs": ("int", 0, 10**9 - 1)}, ()), "clock"),
        "devices": (
            "list",
            (
                "object",
                {
                    "type": ("enum", ("b", "c", "p", "u")), "path": ("text", "absolute"), **_DEVICE_NUMBERS,
                    "fileMode": _UINT32, "uid": _ID, "gid": _ID,
                },
                ("type", "path"),
            ),
        ),
        "netDevices": ("map", ("object", {"name": ("text", "interface or empty")}, ()), "interface"),
        "cgroupsPath": ("text", "no parent"),
        "resources": RESOURCES,
        "rootfsPropagation": ("enum", ("", *PROPAGATION)),
        "seccomp": _SECCOMP,
        "sysctl": ("map", _TEXT, "filled"),
        "maskedPaths": ("list", ("text", "absolute")),
        "readonlyPaths": ("list", ("text", "absolute")),
        "mountLabel": _TEXT,
        "personality": ("object", {"domain": ("enum", PERSONALITIES), "flags": _TEXTS}, ("domain",)),
        "intelRdt": ("refused", "Intel RDT is not supported", "leave it out, or run it with runc"),
        "memoryPolicy": ("refused", "memory policies are not supported", "leave it out, or use resources.cpu.mems"),
    },
    (),
)

CONFIG: Node = (
    "object",
    {
        "ociVersion": ("text", "version"),
        "root": ("object", {"path": ("text", "filled"), "readonly": _BOOL}, ("path",)),
        "mounts": ("list", _MOUNT),
        "process": PROCESS,
        "hostname": ("text", "host name"),
        "domainname": ("text", "host name"),
        "hooks": ("object", dict.fromkeys(HOOKS, _HOOKS), ()),
        "annotations": ("map", _TEXT, "filled"),
        "linux": LINUX,
        "vm": ("refused", "virtual machines are not supported", "run it with a runtime made for them"),
    },
    ("ociVersion", "process", "root"),
)

"""Seccomp profiles: the default one, and the reading of profile files. Called when a bundle is written.

The default profile makes the same decisions as the one of containers-common, which Podman uses: what is not
known to be harmless fails with ENOSYS, so that a C library falls back to an older call; what is known to be
dangerous or pointless without a capability fails with EPERM. Capabilities decide here, not in the filter.

Profile files come in Docker's and Podman's format (``archMap``, ``includes``, ``excludes``, as in
/usr/share/containers/seccomp.json) or as plain OCI objects; :func:`resolve` turns both into the latter.
"""

from __future__ import annotations

import os

from rl.runtime.seccomp.compiler import ARCHITECTURES, machine_architectures, wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ENOSYS = 38
EPERM = 1
EINVAL = 22

#: Calls every container may make, by what they are about.
ALLOWED = {
    "signals": """
        kill pause pidfd_getfd pidfd_open pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask
        rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
        sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend tgkill tkill
    """,
    "time": """
        adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
        clock_gettime64 clock_nanosleep clock_nanosleep_time64 futimesat getitimer gettimeofday nanosleep
        setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
        timer_settime64 timerfd timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
        timerfd_settime64 times utime utimensat utimensat_time64 utimes
    """,
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
        recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
    """,
    "events": """
        _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
        epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
        inotify_rm_watch poll ppoll ppoll_time64 pselect6 pselect6_time64 select
    """,
    "ipc": """
        ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
        mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
        semtimedop_time64 shmat shmctl shmdt shmget
    """,
    "identity": """
        capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid
        getresgid32 getresuid getresuid32 getuid getuid32 keyctl landlock_add_rule landlock_create_ruleset
        landlock_restrict_self prctl seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
        setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid
        setuid32
    """,
    "memory": """
        brk get_mempolicy madvise mbind membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
        mmap2 mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
        process_mrelease process_vm_readv process_vm_writev ptrace remap_file_pages set_mempolicy
    """,
    "scheduling": """
        getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
        sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield setpriority setrlimit ugetrlimit
    """,
    "mounts": """
        fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root reboot setns sysinfo
        syslog umount umount2 uname unshare
    """,
    "processes": """
        clone clone3 execve execveat exit exit_group fork futex futex_time64 get_robust_list get_thread_area
        getpgid getpgrp getpid getppid getsid gettid restart_syscall rseq set_robust_list set_thread_area
        set_tid_address setpgid setsid syscall vfork wait4 waitid waitpid
    """,
    "descriptors and I/O": """
        _llseek close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl fcntl64
        fdatasync flock fsync ftruncate ftruncate64 io_cancel io_destroy io_getevents io_setup io_submit ioctl
        lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile
        sendfile64 splice sync sync_file_range syncfs tee write writev
    """,
    "files": """
        access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat fchown fchown32
        fchownat fgetxattr flistxattr fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 getcwd
        getdents getdents64 getrandom getxattr lchown lchown32 lgetxattr link linkat listxattr llistxattr
        lremovexattr lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open
        openat openat2 readdir readlink readlinkat removexattr rename renameat renameat2 rmdir setxattr stat
        stat64 statfs statfs64 statx symlink symlinkat truncate truncate64 umask unlink unlinkat
    """,}

#: Known, and refused with EPERM whatever the capabilities: obsolete, or far too close to the kernel.
DENIED = """
    bdflush io_pgetevents kexec_file_load kexec_load migrate_pages move_pages nfsservctl nice oldfstat oldlstat
    oldolduname oldstat olduname pciconfig_iobase pciconfig_read pciconfig_write sgetmask ssetmask swapcontext
    swapoff swapon sysfs uselib userfaultfd ustat vm86 vm86old vmsplice
"""

#: Allowed on these machines only.
BY_MACHINE = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
}

#: Allowed with the capability, refused with EPERM without.
BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf fanotify_init lookup_dcookie perf_event_open quotactl setdomainname sethostname",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module query_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

#: personality(2): plain Linux, Linux on 32 bits, both with UNAME26, and the question which one it is.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

AF_NETLINK = 16
NETLINK_AUDIT = 9

GO_NAMES = {"x86_64": "amd64", "x86": "386", "aarch64": "arm64", "arm": "arm", "riscv64": "riscv64"}


def default_profile(capabilities: Iterable[str]) -> dict[str, Any]:
    """See :func:`rl.runtime.seccomp.default_profile`."""
    held = set(capabilities)
    own, others = machine_architectures(os.uname().machine)
    allowed = " ".join(ALLOWED.values()).split() + BY_MACHINE.get(own, "").split()
    denied = DENIED.split()
    for capability, names in BY_CAPABILITY.items():
        (allowed if capability in held else denied).extend(names.split())
    rules = [_rule(denied, EPERM)]
    if "CAP_AUDIT_WRITE" in held:
        allowed.append("socket")
    else:
        # Without the capability the kernel answers EPERM, an error to programs that log to the audit system;
        # EINVAL tells them that there is no audit system.
        # In this order: in another one libseccomp (crun, runc) refuses the last rule where x86 is listed (EEXIST).
        rules += [
            _rule(["socket"], 0, (0, AF_NETLINK, "NE")),
            _rule(["socket"], 0, (2, NETLINK_AUDIT, "NE")),
            _rule(["socket"], EINVAL, (0, AF_NETLINK, "EQ"), (2, NETLINK_AUDIT, "EQ")),
        ]
    rules += [_rule(["personality"], 0, (0, value, "EQ")) for value in PERSONALITIES]
    rules.append(_rule(allowed, 0))
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": [_specification_name(name) for name in (own, *others)],
        "syscalls": rules,
    }


def _rule(names: list[str], errno: int, *arguments: tuple[int, int, str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ERRNO" if errno else "SCMP_ACT_ALLOW"}
    if errno:
        rule["errnoRet"] = errno
    if arguments:
        rule["args"] = [{"index": index, "value": value, "op": f"SCMP_CMP_{op}"} for index, value, op in arguments]
    return rule


def _specification_name(architecture: str) -> str:
    return next(name for name, ours in ARCHITECTURES.items() if ours == architecture)


def resolve(document: Any, capabilities: Iterable[str], where: str = "seccomp profile") -> dict[str, Any]:
    """See :func:`rl.runtime.seccomp.resolve`."""
    from rl.errors import UsageError
    from rl.runtime.seccomp.compiler import compile_profile

    try:
        profile = _resolved(document, set(capabilities))
        compile_profile(profile)  # what is wrong is said now, to the one who named the file
    except UsageError as error:
        raise UsageError(f"{where}: {error.message.removeprefix('seccomp profile: ')}", error.hint) from None
    return profile


def _resolved(document: Any, held: set[str]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise wrong("$", "must be an object")
    own, _ = machine_architectures(os.uname().machine)
    profile: dict[str, Any] = {"defaultAction": document.get("defaultAction")}
    errno = _errno(document, "defaultErrnoRet", "defaultErrno", "")
    if errno is not None:
        profile["defaultErrnoRet"] = errno
    architectures = _architectures(document, _specification_name(own))
    if architectures:
        profile["architectures"] = architectures
    for key in ("flags", "listenerPath", "listenerMetadata"):
        if document.get(key):
            profile[key] = document[key]
    rules = _list(document, "syscalls", "")
    profile["syscalls"] = [
        _plain(rule, f"syscalls[{index}]")
        for index, rule in enumerate(rules)
        if _applies(rule, f"syscalls[{index}]", own, held)
    ]
    return profile


def _list(holder: dict[str, Any], key: str, path: str) -> list[Any]:
    value = holder.get(key)
    if value is not None and not isinstance(value, list):
        raise wrong(f"{path}{key}", "must be an array")
    return value or []


def _architectures(document: dict[str, Any], own: str) -> list[Any]:
    listed = _list(document, "architectures", "")
    mapped = _list(document, "archMap", "")
    if listed and mapped:
        raise wrong("archMap", "stands beside architectures: only one of them may be used")
    for index, entry in enumerate(mapped):
        if not isinstance(entry, dict):
            raise wrong(f"archMap[{index}]", "must be an object")
        if entry.get("architecture") == own:
            return [own, *_list(entry, "subArchitectures", f"archMap[{index}].")]
    return listed


def _errno(holder: dict[str, Any], number_key: str, name_key: str, path: str) -> Any:
    """The errno of a rule: the number, or the name that containers-common writes beside it."""
    if holder.get(number_key) is not None:
        return holder[number_key]
    name = holder.get(name_key)
    if not name:
        return None
    import errno

    number = getattr(errno, name, None) if isinstance(name, str) and name.startswith("E") else None
    if not isinstance(number, int):
        raise wrong(f"{path}{name_key}", f"unknown error name {name!r}")
    return number


def _applies(rule: Any, path: str, own: str, held: set[str]) -> bool:
    """Whether ``includes`` are all met and none of ``excludes`` is."""
    if not isinstance(rule, dict):
        raise wrong(path, "must be an object")
    includes = _conditions(rule, "includes", path)
    excludes = _conditions(rule, "excludes", path)
    machine = GO_NAMES[own]
    wanted, unwanted = includes["caps"], excludes["caps"]
    kernel_from, kernel_to = includes["minKernel"], excludes["minKernel"]
    return not (
        (includes["arches"] and machine not in includes["arches"])
        or machine in excludes["arches"]
        or any(capability not in held for capability in wanted)
        or any(capability in held for capability in unwanted)
        or (kernel_from and _kernel() < kernel_from)
        or (kernel_to and _kernel() >= kernel_to)
    )


def _conditions(rule: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    value = rule.get(key) or {}
    if not isinstance(value, dict):
        raise wrong(f"{path}.{key}", "must be an object")
    unknown = set(value) - {"caps", "arches", "minKernel"}
    if unknown:
        raise wrong(f"{path}.{key}", f"unknown condition {min(unknown)!r}")
    minimum = value.get("minKernel") or ""
    parts = minimum.split(".") if isinstance(minimum, str) else [""]
    if minimum and not (len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit()):
        raise wrong(f"{path}.{key}.minKernel", f"must look like '4.8', not {minimum!r}")
    return {
        "caps": _list(value, "caps", f"{path}.{key}."),
        "arches": _list(value, "arches", f"{path}.{key}."),
        "minKernel": (int(parts[0]), int(parts[1])) if minimum else None,
    }


def _kernel() -> tuple[int, int]:
    """Version of the running kernel, two numbers: of "6.1.0-13-amd64", (6, 1)."""
    major, minor = os.uname().release.split(".")[:2]
    digits = ""
    for character in minor:
        if not character.isdigit():
            break
        digits += character
    return int(major), int(digits or 0)


def _plain(rule: dict[str, Any], path: str) -> dict[str, Any]:
    """*rule* as the OCI specification has it."""
    names = _list(rule, "names", path + ".")
    if rule.get("name"):
        if names:
            raise wrong(f"{path}.name", "stands beside names: only one of them may be used")
        names = [rule["name"]]
    plain: dict[str, Any] = {"names": names, "action": rule.get("action")}
    errno = _errno(rule, "errnoRet", "errno", path + ".")
    if errno is not None:
        plain["errnoRet"] = errno
    arguments = _list(rule, "args", path + ".")
    if arguments:
        plain["args"] = arguments
    return plain

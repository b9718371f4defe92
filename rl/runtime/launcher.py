"""A program of 400 bytes between this interpreter and the container's command (CVE-2019-5736).

While execve(2) looks at the command, ``/proc/self/exe`` still is the program that calls it. A command that begins
with ``#!/proc/self/exe`` would so run the host's interpreter inside the container, which could then open that file
for writing. :func:`rl.runtime.launch.find` looks before, but another process of the container may rewrite the command
between the look and the call. So where the container's ids could write the interpreter (:func:`exposed`: one of pyenv
or uv, which the user owns; any for real root), the child first becomes a program in sealed memory, which then
executes the command: what ``/proc/self/exe`` names at that moment, nobody can write.

The program (:data:`_PROGRAMS`) gets ``argv`` = paths to try, an empty string, the command's own ``argv``. It marks the
socket to the parent close-on-exec, tries the paths in order as execvpe(3) does, and reports a failure as packet
``X``: errno in four bytes, then the path. It runs with exactly what the command gets. A process of the container
that traces it in that instant can keep the socket: the parent then waits until that process ends, nothing more.

Called by :mod:`rl.runtime.container`, :mod:`rl.runtime.exec` (:func:`exposed`, :func:`permitted`, :func:`outcome`),
:mod:`rl.runtime.process` and :mod:`rl.runtime.launch`.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import struct
import sys

from rl.errors import CommandNotExecutableError
from rl.kernel import execfd
from rl.kernel import libc as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ranges = list[tuple[int, int]]  # (first id, count), in ids of ours

PATH_LETTER = b"X"
_OVERFLOW_ID = 65534  # how an id shows that has no number in this user namespace

#: Machine: (ELF machine number, code). Position-independent; the descriptor's number follows as its last four bytes.
#: Left what is executed, right what the assembler makes it from: a test holds both together, and runs them.
_PROGRAMS = {
    "x86_64": (62, """
        8b3db1000000  | mov edi, [rip + descriptor]  # fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        be02000000    | mov esi, 2
        ba01000000    | mov edx, 1
        b848000000    | mov eax, 72
        0f05          | syscall
        85c0          | test eax, eax                # also when the command is a script run by this very program:
        7854          | js refused                   # then the descriptor is closed, and that is the end
        488b0424      | mov rax, [rsp]               # argc
        4c8d642408    | lea r12, [rsp + 8]           # argv: the paths
        4c8d6cc410    | lea r13, [rsp + rax*8 + 16]  # envp
        4c89e3        | mov rbx, r12
                      | seek:                        # rbx = behind the empty string: the command's argv
        488b03        | mov rax, [rbx]
        4883c308      | add rbx, 8
        4885c0        | test rax, rax
        7473          | jz leave
        803800        | cmp byte ptr [rax], 0
        75ef          | jne seek
        4531f6        | xor r14d, r14d               # r14, r15: path and errno to report
                      | try:
        498b3c24      | mov rdi, [r12]               # execve(path, argv, envp)
        803f00        | cmp byte ptr [rdi], 0
        7434          | je report                    # none is left
        4889de        | mov rsi, rbx
        4c89ea        | mov rdx, r13
        b83b000000    | mov eax, 59
        0f05          | syscall
        83f8f3        | cmp eax, -13                 # EACCES: remember the first, look further
        7519          | jne failed
        4d85f6        | test r14, r14
        7509          | jnz next
        4989fe        | mov r14, rdi
        41bf0d000000  | mov r15d, 13
                      | next:
        4983c408      | add r12, 8
        ebd1          | jmp try
                      | refused:
        488b7c2408    | mov rdi, [rsp + 8]
                      | failed:
        4989fe        | mov r14, rdi
        4189c7        | mov r15d, eax
        41f7df        | neg r15d
                      | report:                      # the packet is made in front of the path, where it lies
        4d85f6        | test r14, r14
        7429          | jz leave
        45897efc      | mov [r14 - 4], r15d
        41c646fb58    | mov byte ptr [r14 - 5], 88   # X
        498d76fb      | lea rsi, [r14 - 5]
        ba05000000    | mov edx, 5
                      | measure:
        803c1600      | cmp byte ptr [rsi + rdx], 0
        7404          | je send
        ffc2          | inc edx
        ebf6          | jmp measure
                      | send:                        # write(descriptor, packet, length)
        8b3d13000000  | mov edi, [rip + descriptor]
        b801000000    | mov eax, 1
        0f05          | syscall
                      | leave:                       # exit_group(126)
        bf7e000000    | mov edi, 126
        b8e7000000    | mov eax, 231
        0f05          | syscall
                      | descriptor:
    """),
    "aarch64": (183, """
        40060018 | ldr w0, descriptor         // fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        410080d2 | mov x1, #2
        220080d2 | mov x2, #1
        280380d2 | mov x8, #25
        010000d4 | svc #0
        4003f837 | tbnz w0, #31, refused      // also when the command is a script run by this very program
        e90340f9 | ldr x9, [sp]               // argc
        f3230091 | add x19, sp, #8            // argv: the paths
        740e098b | add x20, x19, x9, lsl #3
        94220091 | add x20, x20, #8           // envp
        f50313aa | mov x21, x19
                 | seek:                      // x21 = behind the empty string: the command's argv
        a98640f8 | ldr x9, [x21], #8
        690400b4 | cbz x9, leave
        2a014039 | ldrb w10, [x9]
        aaffff35 | cbnz w10, seek
        160080d2 | mov x22, #0                // x22, w24: path and errno to report
                 | try:
        600240f9 | ldr x0, [x19]              // execve(path, argv, envp)
        0a004039 | ldrb w10, [x0]
        0a020034 | cbz w10, report            // none is left
        f70300aa | mov x23, x0
        e10315aa | mov x1, x21
        e20314aa | mov x2, x20
        a81b80d2 | mov x8, #221
        010000d4 | svc #0
        1f340031 | cmn w0, #13                // EACCES: remember the first, look further
        e1000054 | b.ne failed
        760000b5 | cbnz x22, next
        f60317aa | mov x22, x23
        b8018052 | mov w24, #13
                 | next:
        73220091 | add x19, x19, #8
        f2ffff17 | b try
                 | refused:
        f70740f9 | ldr x23, [sp, #8]
                 | failed:
        f60317aa | mov x22, x23
        f803004b | neg w24, w0
                 | report:                    // the packet is made in front of the path, where it lies
        b60100b4 | cbz x22, leave
        d8c21fb8 | stur w24, [x22, #-4]
        090b8052 | mov w9, #88                // X
        c9b21f38 | sturb w9, [x22, #-5]
        c11600d1 | sub x1, x22, #5
        a20080d2 | mov x2, #5
                 | measure:
        29686238 | ldrb w9, [x1, x2]
        69000034 | cbz w9, send
        42040091 | add x2, x2, #1
        fdffff17 | b measure
                 | send:                      // write(descriptor, packet, length)
        c0000018 | ldr w0, descriptor
        080880d2 | mov x8, #64
        010000d4 | svc #0
                 | leave:                     // exit_group(126)
        c00f80d2 | mov x0, #126
        c80b80d2 | mov x8, #94
        010000d4 | svc #0
                 | descriptor:
    """),
}


#: Machine: (AUDIT_ARCH_*, calls: fcntl F_SETFD, execveat, write, exit_group). execve(2) is the command's own matter.
_CALLS: dict[str, tuple[int, tuple[tuple[int, tuple[int, ...]], ...]]] = {
    "x86_64": (0xC000003E, ((72, (9, 2, 1)), (322, (9, 1, 1, 1, 0x1000)), (1, (9, 1, 100)), (231, (126,)))),
    "aarch64": (0xC00000B7, ((25, (9, 2, 1)), (281, (9, 1, 1, 1, 0x1000)), (64, (9, 1, 100)), (94, (126,)))),
}


def image(machine: str, descriptor: int) -> bytes:
    """The whole program: an ELF header, two program headers, code. Raises KeyError for an unknown *machine*."""
    number, listing = _PROGRAMS[machine]
    code = b"".join(bytes.fromhex(line.partition("|")[0]) for line in listing.splitlines())
    code += descriptor.to_bytes(4, "little")
    address, size = 0x400000, 64 + 2 * 56 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, number, 1, address + 64 + 2 * 56, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, size, size, 0x10000)  # PT_LOAD, readable, executable
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK, not executable
    return header + load + stack + code


def exposed(spec: dict[str, Any] | None = None, target_pid: int = 0) -> bool:
    """Whether a process of the container could have an id that may write this interpreter's file.

    Asked outside, before the container's process is made. *spec* or *target_pid* (of a running container) tell the
    container's user namespace where it has one of its own; else it has all ids that we have.
    """
    try:
        info = os.stat("/proc/self/exe")
        writable = os.access("/proc/self/exe", os.W_OK)
        if not writable and info.st_uid != os.geteuid() and info.st_uid in (0, _OVERFLOW_ID):
            return False  # root's, or of somebody who does not exist here
        uids, gids = _ranges(spec, target_pid)
    except OSError:
        return True  # nothing known: the careful way
    if uids is None or gids is None or info.st_mode & 0o002 or _within(info.st_uid, uids):
        return True
    return bool(info.st_mode & 0o020) and _within(info.st_gid, gids)


def permitted(program: bytes | None) -> bool:
    """Whether seccomp filter *program* allows what it takes to become the launcher, and what the launcher does.

    One that does not may kill who tries; then the look at the command is what is left.
    """
    if not program or k.MACHINE not in _PROGRAMS:
        return True
    from rl.runtime.seccomp import verdict

    architecture, calls = _CALLS[k.MACHINE]
    return all(verdict.permits(program, architecture, number, arguments) for number, arguments in calls)


def _ranges(spec: dict[str, Any] | None, target_pid: int) -> tuple[Ranges | None, Ranges | None]:
    if target_pid:
        found = []
        for kind in ("uid", "gid"):
            with open(f"/proc/{target_pid}/{kind}_map", encoding="utf-8") as file:
                found.append([(int(outside), int(count)) for _, outside, count in map(str.split, file)])
        return found[0], found[1]
    linux = (spec or {}).get("linux") or {}
    if not any(entry.get("type") == "user" and not entry.get("path") for entry in linux.get("namespaces") or ()):
        return None, None
    uids, gids = (linux.get(f"{kind}Mappings") or [] for kind in ("uid", "gid"))
    return _outside(uids), _outside(gids)


def _outside(mappings: list[dict[str, int]]) -> Ranges:
    return [(entry.get("hostID", 0), entry.get("size", 0)) for entry in mappings]


def _within(number: int, ranges: Ranges) -> bool:
    return any(first <= number < first + count for first, count in ranges)


class Launcher:
    """The program, ready to be executed."""

    __slots__ = ("descriptor", "fd")

    def __init__(self, fd: int, descriptor: int) -> None:
        self.fd = fd
        self.descriptor = descriptor

    def execute(self, paths: list[str], arguments: list[str], environment: dict[str, str]) -> None:
        """Become the program, which becomes the first of *paths* that can be executed.

        Returns where the host's policy or the seccomp filter does not let it. Raises OSError, and
        CommandNotExecutableError for a NUL byte.
        """
        argv = [os.fsencode(word) for word in (*paths, "", *arguments)]
        envp = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
        if any(b"\0" in word for word in (*argv, *envp)):
            raise CommandNotExecutableError(f"start {paths[0]}: embedded null byte")
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFD, 0)
        except OSError:
            return  # the filter forbids it, and would to the program
        try:
            execfd.execveat(self.fd, argv, envp)
        except OSError as error:
            fcntl.fcntl(self.descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            # Only these: E2BIG or ENOMEM could be brought about by an image to get around us.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOSYS):
                raise


def prepare(descriptor: int) -> Launcher | None:
    """A launcher that reports over *descriptor*; None where this machine or its policy (vm.memfd_noexec) has none.

    Called before resource limits and seccomp filter, which might not leave room for it.
    """
    if k.MACHINE not in _PROGRAMS or sys.byteorder != "little":
        return None
    try:
        return Launcher(execfd.sealed_program("rl", image(k.MACHINE, descriptor)), descriptor)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EINVAL):
            return None
        raise


def outcome(sock: _socket.socket, pidfd: int, size: int) -> bytes:
    """What the child says last, b"" when its command runs, or it has ended: whoever kept its socket open."""
    if pidfd >= 0:
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        poll.poll()
        try:
            return sock.recv(size, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""
    return sock.recv(size)


def parse(packet: bytes) -> tuple[str, int]:
    """(path, errno) of a packet ``X``; it may come from the container, so anything is accepted."""
    return packet[5:4100].decode(errors="replace"), int.from_bytes(packet[1:5], "little") & 0xFFFF

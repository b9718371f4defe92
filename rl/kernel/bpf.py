"""bpf(2), as far as device filters of a cgroup need it: load, attach, replace, list, detach (Linux 4.15).

Called by :mod:`rl.runtime.devicefilter` only. Needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the initial
user namespace. Source: bpf(2), include/uapi/linux/bpf.h (union bpf_attr).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from rl.kernel import libc as k

_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_OBJ_GET_INFO_BY_FD = 15
_PROG_QUERY = 16

_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6  # enum bpf_attach_type
_F_ALLOW_MULTI = 2
_F_REPLACE = 4

_MOST_PROGRAMS = 64  # the kernel's own limit for one cgroup and attach type
_LOG = 16384


def _bpf(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes)) if isinstance(attributes, bytes) else attributes
    return k.syscall(k.number_of("bpf"), command, ctypes.addressof(buffer), len(buffer))


def load_device_filter(program: bytes, name: str) -> int:
    """A device filter of *program* (struct bpf_insn[]), named *name* (15 bytes): its descriptor, close-on-exec.

    Raises OSError, with the verifier's words where it refuses.
    """
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")  # what is loaded calls no helper, so any will do
    log = ctypes.create_string_buffer(_LOG)

    def attributes(log_size: int) -> bytes:
        return struct.pack(
            "=IIQQIIQII16s", _PROG_TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(code),
            ctypes.addressof(licence), 1 if log_size else 0, log_size, ctypes.addressof(log) if log_size else 0, 0, 0,
            name.encode()[:15],
        )

    try:
        return _bpf(_PROG_LOAD, attributes(0))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise
        # Once more for the reason; a verifier log costs time where nothing is wrong.
        try:
            return _bpf(_PROG_LOAD, attributes(_LOG))
        except OSError as error:
            text = " ".join(log.value.decode(errors="replace").split())[-300:]
            raise OSError(error.errno, f"{error.strerror}: {text}" if text else error.strerror) from None


def attach_device_filter(cgroup: int, program: int, replace: int = -1) -> None:
    """Attach *program* to the cgroup v2 directory *cgroup*, beside others or (Linux 5.6) in the place of *replace*."""
    flags = _F_ALLOW_MULTI | (_F_REPLACE if replace >= 0 else 0)
    _bpf(_PROG_ATTACH, struct.pack("=IIIII", cgroup, program, _CGROUP_DEVICE, flags, max(replace, 0)))


def detach_device_filter(cgroup: int, program: int) -> None:
    """Take *program* off the cgroup."""
    _bpf(_PROG_DETACH, struct.pack("=IIIII", cgroup, program, _CGROUP_DEVICE, 0, 0))


def device_filters(cgroup: int) -> list[tuple[int, str]]:
    """(descriptor, name) of each filter attached to the cgroup itself; the caller closes them."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    query = ctypes.create_string_buffer(
        struct.pack("=IIIIQI", cgroup, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS), 32
    )
    _bpf(_PROG_QUERY, query)
    count = struct.unpack_from("=I", query.raw, 24)[0]
    found: list[tuple[int, str]] = []
    try:
        for number in ids[:count]:
            fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
            found.append((fd, _name(fd)))
    except BaseException:
        for fd, _ in found:
            os.close(fd)
        raise
    return found


def _name(program: int) -> str:
    """The name a program was loaded with (struct bpf_prog_info)."""
    info = ctypes.create_string_buffer(128)
    _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    return info.raw[64:80].split(b"\0")[0].decode(errors="replace")

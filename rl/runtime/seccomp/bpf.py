"""An assembler for classic BPF, used by the seccomp compiler alone.

Instructions are emitted from the last to the first. All jumps of BPF go forward, so their targets
are known when they are written, and distances never change afterwards: a target further away than
the 8 bits of a conditional jump can say is reached over an unconditional jump (32 bits) put beside it.

A *position* names an instruction: how many had been emitted when it was, itself included.

Source: kernel Documentation/networking/filter.rst; struct seccomp_data in seccomp(2).
"""

from __future__ import annotations

import struct

from rl.errors import RlError

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: A = word at offset k
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
JEQ = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JGT = 0x25
JGE = 0x35
RETURN = 0x06  # BPF_RET | BPF_K

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class Assembler:
    """Emits a program backwards; :meth:`program` gives it in the kernel's order and format."""

    __slots__ = ("_code", "_returns")

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, int] = {}

    def _emit(self, code: int, true: int, false: int, k: int) -> int:
        self._code.append((code, true, false, k))
        return len(self._code)

    def give(self, value: int) -> int:
        """``return value``; one within reach is used again."""
        known = self._returns.get(value)
        if known is not None and len(self._code) - known < 200:
            return known
        position = self._returns[value] = self._emit(RETURN, 0, 0, value)
        return position

    def load(self, offset: int, then: int) -> int:
        """A = the word at *offset* of struct seccomp_data, go on at *then*."""
        self._fall_through(then)
        return self._emit(LOAD, 0, 0, offset)

    def mask(self, value: int, then: int) -> int:
        """A &= *value*, go on at *then*."""
        self._fall_through(then)
        return self._emit(AND, 0, 0, value)

    def jump(self, code: int, value: int, true: int, false: int) -> int:
        """Compare A with *value* by *code* (JEQ, JGT, JGE) and go on at *true* or *false*."""
        true = self._near(true)
        false = self._near(false)
        here = len(self._code)
        return self._emit(code, here - true, here - false, value)

    def _fall_through(self, then: int) -> None:
        if then != len(self._code):
            self._far(then)

    def _near(self, target: int) -> int:
        # 254, not 255: what is emitted for the other target may move this one by one.
        return target if len(self._code) - target < 254 else self._far(target)

    def _far(self, target: int) -> int:
        code, _, _, k = self._code[target - 1]
        if code == RETURN:
            return self._emit(RETURN, 0, 0, k)  # as long as the jump to it, and one step less
        return self._emit(JUMP, 0, 0, len(self._code) - target)

    def program(self) -> bytes:
        """struct sock_filter[], in this machine's byte order. Raises RlError if the kernel would refuse its length."""
        if len(self._code) > MAX_INSTRUCTIONS:
            raise RlError(
                f"compile the seccomp profile: {len(self._code)} instructions, the kernel takes {MAX_INSTRUCTIONS}",
                "give the profile fewer rules with args",
            )
        pack = struct.Struct("=HBBI").pack
        return b"".join(pack(*instruction) for instruction in reversed(self._code))

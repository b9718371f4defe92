"""Signal names as people and images write them. On the hot path: no ``signal``, no ``enum``."""

from __future__ import annotations

import _signal

from rl.errors import UsageError

#: KILL: 9, … , RTMIN: 34, RTMAX: 64 (as the C library numbers them)
NUMBERS: dict[str, int] = {
    name[3:]: getattr(_signal, name) for name in dir(_signal) if name.startswith("SIG") and name[3].isalpha()
}


def parse_signal(text: str | int) -> int:
    """The number of a signal given as ``TERM``, ``SIGTERM``, ``15``, ``RTMIN+3`` or ``SIGRTMAX-1``, in any case.

    Raises UsageError.
    """
    word = str(text).strip().upper()
    if word.isascii() and word.isdigit() and 1 <= int(word) <= NUMBERS["RTMAX"]:
        return int(word)
    word = word[3:] if word.startswith("SIG") else word
    if word in NUMBERS:
        return int(NUMBERS[word])
    for base, sign in (("RTMIN", 1), ("RTMAX", -1)):
        offset = word[6:]
        if word.startswith(base + ("+" if sign > 0 else "-")) and offset.isascii() and offset.isdigit():
            number = int(NUMBERS[base]) + sign * int(offset)
            if NUMBERS["RTMIN"] <= number <= NUMBERS["RTMAX"]:
                return number
    raise UsageError(f"invalid signal: {text}", "use a name such as TERM or SIGRTMIN+3, or a number: see `kill -l`")


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; the number itself for one without a name."""
    for name, value in NUMBERS.items():
        if value == number and name not in ("CLD", "POLL", "RTMIN", "RTMAX"):
            return "SIG" + name
    if NUMBERS["RTMIN"] <= number <= NUMBERS["RTMAX"]:
        offset = number - NUMBERS["RTMIN"]
        return f"SIGRTMIN+{offset}" if offset else "SIGRTMIN"
    return str(number)

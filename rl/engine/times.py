"""Times and sizes as people read them, and RFC 3339 as records keep it; without ``datetime`` (4 ms to import).

Called by the read verbs (ps, images, inspect) and by the command line.
"""

from __future__ import annotations

import time

from rl.errors import UsageError

#: What Go's zero time is in seconds since 1970; Podman's JSON says "never" with it.
NEVER = -62135596800
NEVER_TEXT = "0001-01-01T00:00:00Z"


def human_size(size: float, precision: int = 3, space: str = "") -> str:
    """Bytes in units of 1000: ``1.98MB``."""
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
    at, value = 0, float(size)
    while abs(value) >= 1000 and at < len(units) - 1:
        value /= 1000
        at += 1
    text = f"{value:.{precision}g}"
    if "e" in text:  # 999.7 kB rounds up to the next unit
        text, at = "1", at + 1
    return f"{text}{space}{units[at]}"


def binary_size(size: float) -> str:
    """Bytes in units of 1024: ``23.54GiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    at, value = 0, float(size)
    while abs(value) >= 1024 and at < len(units) - 1:
        value /= 1024
        at += 1
    return f"{value:.4g}{units[at]}" if abs(value) < 1000 else f"{value:.0f}{units[at]}"


def go_duration(ns: int) -> str:
    """Nanoseconds as Go prints a time.Duration: ``1h2m3.5s``, ``20.386825ms``, ``0s``."""
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if ns < size * 1000:
            return f"{_fraction(ns, size)}{unit}" if ns else "0s"
    minutes, rest = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_fraction(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _fraction(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    digits = str(rest).rjust(len(str(size)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


_SPANS = ((48, 1, "hours"), (24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks"), (24 * 365 * 2, 24 * 30, "months"))


def human_duration(seconds: float) -> str:
    """``5 minutes``, ``About an hour``: how Docker and Podman round."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, unit, name in _SPANS:
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{hours // (24 * 365)} years"


_midnights: dict[str, int] = {}  # date → seconds since 1970


def epoch_ns(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time; 0 for "". Raises UsageError for anything else."""
    if not text:
        return 0
    if len(text) == 30 and text[29] == "Z" and text[:10] in _midnights:  # as records keep it: `rl ps` asks for many
        try:
            seconds = int(text[11:13]) * 3600 + int(text[14:16]) * 60 + int(text[17:19])
            return (_midnights[text[:10]] + seconds) * 10**9 + int(text[20:29])
        except ValueError:
            pass  # told below
    try:
        year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
        hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
        rest = text[19:]
        fraction = ""
        if rest[:1] == ".":
            end = 1
            while rest[end : end + 1].isdigit():
                end += 1
            fraction, rest = rest[1:end], rest[end:]
        offset = 0
        if rest not in ("Z", "z", ""):
            if rest[0] not in "+-":
                raise ValueError
            offset = (int(rest[1:3]) * 3600 + int(rest[4:6]) * 60) * (-1 if rest[0] == "-" else 1)
        if text[4] != "-" or text[7] != "-" or not 1 <= month <= 12:
            raise ValueError
    except (ValueError, IndexError):
        raise UsageError(f"{text!r} is not a time", "write it as 2026-01-31T12:00:00Z") from None
    midnight = _days(year, month, day) * 86400
    if len(_midnights) < 1000:
        _midnights[text[:10]] = midnight
    seconds = midnight + hour * 3600 + minute * 60 + second - offset
    return seconds * 10**9 + int((fraction + "000000000")[:9])


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970 in the Gregorian calendar (datetime costs 4 ms to import)."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def go_time(text: str) -> str:
    """An RFC 3339 time as Go prints a time.Time: ``2026-01-31 12:00:00.5 +0000 UTC``."""
    ns = epoch_ns(text)
    if not ns:
        return "0001-01-01 00:00:00 +0000 UTC"
    local = time.localtime(ns // 10**9)
    fraction = f".{ns % 10**9:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%d %H:%M:%S", local) + fraction + time.strftime(" %z %Z", local)


def rfc3339_local(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 with the local offset, as Go writes it in JSON: no zeros at the end."""
    local = time.localtime(ns // 10**9)
    fraction = f".{ns % 10**9:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + fraction + zone(local.tm_gmtoff)


def zone(offset: int) -> str:
    """A zone's offset in seconds as RFC 3339 has it."""
    if not offset:
        return "Z"
    sign, offset = ("+", offset) if offset > 0 else ("-", -offset)
    return f"{sign}{offset // 3600:02d}:{offset // 60 % 60:02d}"


def ago(text: str) -> str:
    """``5 minutes ago`` for an RFC 3339 time, "" for none."""
    ns = epoch_ns(text)
    return human_duration((time.time_ns() - ns) / 1e9) + " ago" if ns else ""


_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
          "d": 86400 * 10**9}


def duration_ns(text: str) -> int:
    """Nanoseconds of a Go duration (``1h30m``, ``250ms``); a bare number is seconds. Raises UsageError."""
    total, number, at = 0.0, "", 0
    try:
        if text and text.replace(".", "", 1).isdigit():
            return int(float(text) * 10**9)
        while at < len(text):
            if text[at].isdigit() or text[at] == ".":
                number += text[at]
                at += 1
                continue
            unit = text[at : at + 2] if text[at : at + 2] in _UNITS else text[at]
            total += float(number) * _UNITS[unit]
            number, at = "", at + len(unit)
        if number or not text:
            raise ValueError
    except (ValueError, KeyError):
        raise UsageError(f"{text!r} is not a duration", "write it as 300ms, 10s, 5m or 1h30m") from None
    return int(total)


def flag_ns(flag: str, text: str, ahead: bool = False) -> int:
    """As :func:`moment_ns`, 0 for ""; the error names the *flag*. *ahead*, as Podman's --until is: ``10m`` is in ten
    minutes, ``-10m`` ten minutes ago. Raises UsageError."""
    if not text:
        return 0
    sign = 1
    if text[0] in "+-":
        sign, text = (-1 if text[0] == "-" else 1), text[1:]
        duration = True
    else:
        duration = not text.replace(".", "", 1).isdigit() and text[4:5] != "-"
    try:
        if duration:
            return time.time_ns() + (sign if ahead else -sign) * duration_ns(text)
        return moment_ns(text)
    except UsageError:
        hint = "use 2026-01-31T12:00:00Z, 2026-01-31, seconds since 1970, or a duration: 1h30m"
        raise UsageError(f'parsing --{flag} "{text}": unable to interpret time value', hint) from None


def moment_ns(text: str) -> int:
    """Nanoseconds since 1970 of a time as flags take it: RFC 3339 (date alone: midnight; without zone: local), seconds
    since 1970, or a duration back from now (``10m``). Raises UsageError."""
    if text.replace(".", "", 1).isdigit():
        return int(float(text) * 10**9)
    if len(text) >= 10 and text[4] == "-" and text[7] == "-":
        full = text if "T" in text else f"{text[:10]}T00:00:00{text[10:]}"
        if full[-1:] in "Zz" or full[19:].count("+") or full[19:].count("-"):
            return epoch_ns(full)
        ns = epoch_ns(full)
        away = time.localtime(ns // 10**9).tm_gmtoff
        return ns - away * 10**9
    try:
        return time.time_ns() - duration_ns(text)
    except UsageError:
        raise UsageError(f"{text!r} is not a time", "2026-01-31T12:00:00Z, 10m (ago) or seconds since 1970") from None

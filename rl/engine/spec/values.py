"""Small values that flags carry: sizes, key=value pairs, comma lists with quotes."""

from __future__ import annotations

from rl.errors import UsageError

_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")


def is_name(text: str) -> bool:
    """Whether *text* may name a container or a volume, as in Podman; it is safe as a file name then."""
    return text[:1] in _NAME_FIRST and _NAME_REST.issuperset(text) and len(text) <= 255


_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def size(text: str, flag: str) -> int:
    """Bytes in ``512m``, ``1.5g``, ``64kb``, ``1GiB``; a bare number is bytes."""
    number = text.strip().lower()
    for suffix in ("ib", "b"):
        if number.endswith(suffix) and number[: -len(suffix)][-1:] in _UNITS and number[: -len(suffix)][-1:] != "b":
            number = number[: -len(suffix)]
            break
    unit = 1
    if number[-1:] in _UNITS:
        unit = _UNITS[number[-1]]
        number = number[:-1]
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value * unit < 1 << 63:  # what the kernel can hold; false for NaN too
        raise UsageError(f"{flag}: {text!r} is not a size", "write a number, with a unit b, k, m, g or t: 512m")
    return int(value * unit)


def integer(text: object, flag: str, low: int | None = None, high: int | None = None) -> int:
    """The whole number *text*, within the bounds."""
    word = str(text).strip()
    digits = word[1:] if word[:1] in ("-", "+") else word
    if not (digits.isascii() and digits.isdigit()):  # int() takes 1_000 and the digits of all scripts
        raise UsageError(f"{flag}: {text!r} is not a whole number")
    value = int(word)
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"{low} to {high}"
        raise UsageError(f"{flag}: {value} is out of range ({bounds})")
    return value


def number(text: object, flag: str) -> float:
    """The non-negative number *text*."""
    try:
        value = float(str(text))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e15:
        raise UsageError(f"{flag}: {text!r} is not a number of 0 or more")
    return value


def pairs(items: list[str], flag: str, strict: bool = False) -> dict[str, str]:
    """``KEY=VALUE`` items as a dict; a missing ``=`` means an empty value, or with *strict* an error."""
    result = {}
    for item in items:
        key, equals, value = item.partition("=")
        if strict and not equals:
            raise UsageError(f"{flag}: {item!r} has no value", f"write {flag} KEY=VALUE")
        if not key:
            raise UsageError(f"{flag}: {item!r} has no key", f"write {flag} KEY=VALUE")
        result[key] = value
    return result


def comma_list(text: str) -> list[str]:
    """The fields of a CSV line: ``a,"b,c",d`` are three. Raises UsageError for an open quotation."""
    fields, current, quoted = [], "", False
    for index, character in enumerate(text):
        if character == '"':
            if not quoted and text[index - 1 : index] == '"':
                current += character  # a doubled quote inside quotes is one (RFC 4180)
            quoted = not quoted
        elif character == "," and not quoted:
            fields.append(current)
            current = ""
        else:
            current += character
    fields.append(current)
    if quoted:
        raise UsageError(f"{text!r}: a quotation mark is not closed")
    return fields


def boolean(text: str, flag: str) -> bool:
    """true/1/t/yes or false/0/f/no."""
    lowered = text.lower()
    if lowered in ("", "true", "1", "t", "yes"):
        return True
    if lowered in ("false", "0", "f", "no"):
        return False
    raise UsageError(f"{flag}: {text!r} is neither true nor false")


def label_files(paths: list[str], flag: str) -> list[str]:
    """The lines of *paths* without comments and empty ones; a value keeps the blanks at its end."""
    lines = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                content = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{flag} {path}: {getattr(error, 'strerror', None) or error}") from None
        found = [line.lstrip() for line in content.split("\n")]  # splitlines() splits at form feeds and U+2028 too
        lines += [line if "=" in line else line.rstrip() for line in found if line and not line.startswith("#")]
    return lines

"""The functions a ``--format`` template may call: Go's own and those Podman adds.

Called by :mod:`rl.cli.template`, which imports this only for a template that calls something.
"""

from __future__ import annotations

from rl.cli.template import NO_VALUE, go_float, go_text, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class CallError(Exception):
    """A function cannot take these arguments."""


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return {"str": "string", "float": "float64", "dict": "map", "list": "slice", "tuple": "slice"}.get(
        type(value).__name__, "nil"
    )


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise CallError(f"value has type {_kind(key)}; should be string")
            if key in value:
                value = value[key]
            else:
                texts = [item for item in value.values() if isinstance(item, str)]
                value = "" if texts or not value else NO_VALUE  # the zero value of what the map holds
        elif isinstance(value, (list, tuple, str)):
            if _kind(key) != "int":
                raise CallError(f"cannot index slice/array with type {_kind(key)}")
            if not 0 <= key < len(value):
                raise CallError(f"index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        elif value is None or value is NO_VALUE:
            raise CallError("index of nil")
        else:
            raise CallError(f"can't index item of type {_kind(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, (list, tuple, str)):
        raise CallError(f"can't slice item of type {_kind(value)}")
    if any(_kind(bound) != "int" for bound in bounds):
        raise CallError("cannot slice with an index that is not an int")
    start = bounds[0] if bounds else 0
    end = bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= start <= end <= len(value):
        raise CallError(f"index out of range: {start}:{end}")
    return value[start:end]


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, (list, tuple, dict)):
        return len(value)
    raise CallError(f"len of type {_kind(value)}")


def _comparable(a: Any, b: Any) -> None:
    if _kind(a) != _kind(b) and {_kind(a), _kind(b)} != {"int", "float64"}:
        raise CallError("incompatible types for comparison")


def _equal(first: Any, *others: Any) -> bool:
    for other in others:
        if first is None or other is None:
            if first is other:
                return True
            continue
        _comparable(first, other)
        if first == other:
            return True
    return False


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(a: Any, b: Any) -> bool:
        _comparable(a, b)
        if _kind(a) not in ("int", "float64", "string"):
            raise CallError("invalid type for comparison")
        return test(a, b)

    return compare


def _print(*values: Any) -> str:
    """Sprint: a space between two operands when neither is a string."""
    text = ""
    for at, value in enumerate(values):
        if at and not isinstance(value, str) and not isinstance(values[at - 1], str):
            text += " "
        text += go_text(value)
    return text


def _println(*values: Any) -> str:
    return " ".join([go_text(value) for value in values]) + "\n"


_FLAGS = "+-# 0"


def _printf(pattern: Any, *values: Any) -> str:
    """Sprintf, with Go's answers to wrong arguments: ``%!d(string=x)``, ``%!d(MISSING)``, ``%!(EXTRA …)``."""
    if not isinstance(pattern, str):
        raise CallError(f"wrong type for value; expected string; got {_kind(pattern)}")
    out: list[str] = []
    at, used, n = 0, 0, len(pattern)
    while at < n:
        start = pattern.find("%", at)
        if start < 0:
            out.append(pattern[at:])
            break
        out.append(pattern[at:start])
        at = start + 1
        flags = ""
        while at < n and pattern[at] in _FLAGS:
            flags += pattern[at]
            at += 1
        sizes: list[int | None] = [None, None]
        for which in (0, 1):
            if which == 1:
                if pattern[at : at + 1] != ".":
                    break
                at += 1
                sizes[1] = 0
            if pattern[at : at + 1] == "*":
                if used < len(values) and _kind(values[used]) == "int":
                    sizes[which] = values[used]
                used += 1
                at += 1
                continue
            begin = at
            while at < n and pattern[at].isdigit():
                at += 1
            if at > begin:
                sizes[which] = int(pattern[begin:at])
        if at >= n:
            out.append("%!(NOVERB)")
            break
        verb = pattern[at]
        at += 1
        if verb == "%":
            out.append("%")
        elif used >= len(values):
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(verb, flags, sizes[0], sizes[1], values[used]))
            used += 1
    if used < len(values):
        extra = ", ".join(f"{_kind(value)}={go_text(value)}" for value in values[used:])
        out.append(f"%!(EXTRA {extra})")
    return "".join(out)


_INTEGER = {"d": "d", "x": "x", "X": "X", "o": "o", "b": "b"}
_BAD = object()


def _verb(verb: str, flags: str, width: int | None, precision: int | None, value: Any) -> str:
    text = _formatted(verb, flags, precision, value)
    if text is _BAD:
        return f"%!{verb}({_kind(value)}={go_text(value)})"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and verb not in "cqTU":
        if "+" in flags and not text.startswith("-"):
            text = "+" + text
        elif " " in flags and not text.startswith("-"):
            text = " " + text
    if width is None:
        return str(text)
    if width < 0 or "-" in flags:
        return str(text).ljust(abs(width))
    if "0" in flags and _kind(value) in ("int", "float64", "string"):
        sign = text[:1] if text[:1] in ("+", "-") and _kind(value) != "string" else ""
        return sign + str(text[len(sign) :]).rjust(width - len(sign), "0")
    return str(text).rjust(width)


def _formatted(verb: str, flags: str, precision: int | None, value: Any) -> Any:
    kind = _kind(value)
    if verb == "T":
        return kind
    if verb == "v":
        if "#" in flags and kind == "string":
            return _quote(value)
        return go_text(value)
    if isinstance(value, (list, tuple)) and verb in "sdqxXot":
        return "[" + " ".join([_verb(verb, flags, None, precision, item) for item in value]) + "]"
    if verb == "t":
        return go_text(value) if kind == "bool" else _BAD
    if kind == "string":
        if verb == "s":
            return value if precision is None else value[:precision]
        if verb == "q":
            return _quote(value)
        if verb in "xX":
            text = value.encode("utf-8", "surrogateescape").hex()
            return text.upper() if verb == "X" else text
        return _BAD
    if kind == "int":
        if verb in _INTEGER:
            prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "") if "#" in flags else ""
            sign = "-" if value < 0 else ""
            return f"{sign}{prefix}{format(abs(value), _INTEGER[verb])}"
        if verb in "cqU" and 0 <= value < 0x110000:
            return chr(value) if verb == "c" else f"'{chr(value)}'" if verb == "q" else f"U+{value:04X}"
        return _BAD
    if kind == "float64" and verb in "eEfFgG":
        if verb in "gG" and precision is None:
            return go_float(value)
        return format(value, f".{6 if precision is None else precision}{verb}")
    return _BAD


def _quote(text: str) -> str:
    """Go's %q: a double-quoted string with its escapes."""
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v", '"': '\\"',
             "\\": "\\\\"}
    quoted = ""
    for c in text:
        quoted += names.get(c) or (c if c.isprintable() else f"\\x{ord(c):02x}" if c < "\x80" else f"\\u{ord(c):04x}")
    return f'"{quoted}"'


def _one_text(values: tuple[Any, ...]) -> str:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else _print(*values)


_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _html(*values: Any) -> str:
    return "".join([_HTML.get(c, c) for c in _one_text(values)])


def _js(*values: Any) -> str:
    return "".join([_JS.get(c) or (f"\\u{ord(c):04X}" if not c.isprintable() else c) for c in _one_text(values)])


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_one_text(values))


def _json(value: Any) -> str:
    from rl.cli.output import to_json

    return to_json(None if value is NO_VALUE else value)


def _strings(value: Any, separator: Any) -> str:
    if not isinstance(value, (list, tuple)):
        raise CallError(f"wrong type for value; expected []string; got {_kind(value)}")
    return _string(separator).join([go_text(item) for item in value])


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise CallError(f"wrong type for value; expected string; got {_kind(value)}")
    return value


def _split(text: Any, separator: Any) -> list[str]:
    return _string(text).split(separator) if _string(separator) else list(text)


def _title(text: Any) -> str:
    out, before = "", " "
    for c in _string(text):
        out += c if before.isalnum() or before == "_" else c.upper()
        before = c
    return out


def _pad(text: Any, left: Any, right: Any) -> str:
    if _kind(left) != "int" or _kind(right) != "int":
        raise CallError("pad wants a string and two numbers of spaces")
    return " " * left + _string(text) + " " * right if text else ""


def _truncate(text: Any, length: Any) -> str:
    if _kind(length) != "int":
        raise CallError("truncate wants a string and a length")
    return _string(text)[: max(length, 0)]


#: name -> function, least and most arguments (None: any number); `and` and `or` are in the interpreter.
FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int | None]] = {
    "eq": (_equal, 2, None),
    "ne": (lambda a, b: not _equal(a, b), 2, 2),
    "lt": (_ordered(lambda a, b: a < b), 2, 2),
    "le": (_ordered(lambda a, b: a <= b), 2, 2),
    "gt": (_ordered(lambda a, b: a > b), 2, 2),
    "ge": (_ordered(lambda a, b: a >= b), 2, 2),
    "not": (lambda value: not truth(value), 1, 1),
    "index": (_index, 1, None),
    "slice": (_slice, 1, 3),
    "len": (_len, 1, 1),
    "print": (_print, 0, None),
    "println": (_println, 0, None),
    "printf": (_printf, 1, None),
    "html": (_html, 0, None),
    "js": (_js, 0, None),
    "urlquery": (_urlquery, 0, None),
    "json": (_json, 1, 1),
    "join": (_strings, 2, 2),
    "split": (_split, 2, 2),
    "upper": (lambda text: _string(text).upper(), 1, 1),
    "lower": (lambda text: _string(text).lower(), 1, 1),
    "title": (_title, 1, 1),
    "pad": (_pad, 3, 3),
    "truncate": (_truncate, 2, 2),
}

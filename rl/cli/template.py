"""Go's text/template, for ``--format``: what scripts written for Podman and Docker contain.

A template is executed on plain data: dicts, lists, strings, numbers, booleans, None. A dict whose keys all begin with a
capital stands for a Go struct: a field it lacks is an error that names the ones it has. Every other dict is
a map: a key it lacks prints ``<no value>``. A value that is callable is a method; arguments may follow it.

Called by :mod:`rl.cli.output`. Source: https://pkg.go.dev/text/template. Left out: ``define``, ``template``, ``block``
and ``call``, which a ``--format`` has no use for.
"""

from __future__ import annotations

from rl.cli.template_syntax import Lexer, Parser, TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.cli.template_syntax import Node

#: Fields that hold maps though their keys may begin with capitals.
_MAPS = frozenset(("Labels", "Annotations", "Networks", "Ports", "PortBindings", "Tmpfs", "Volumes", "ExposedPorts",
                   "Options", "Sysctl", "Attributes"))


#: Field names that are no keys of the JSON document: .State.Healthcheck, as it was called before.
_ALIASES = {"Healthcheck": "Health"}


class _Loop(Exception):
    """break or continue of a range."""


class NoValue:
    """What a map gives for a key it lacks: false, printed as ``<no value>``."""

    def __bool__(self) -> bool:
        return False


NO_VALUE = NoValue()


class Tagged(dict):  # type: ignore[type-arg]
    """A Go struct whose JSON names are not its field names: ``.Host.IDMappings`` finds ``idMappings``."""

    def find(self, name: str) -> str | None:
        """The key that stands for field *name*."""
        return next((key for key in self if key.lower() == name.lower()), None)


def tagged(value: Any) -> Any:
    """*value* with every dict as :class:`Tagged`, except what a map field holds."""
    if isinstance(value, dict):
        return Tagged({key: item if key in _MAPS else tagged(item) for key, item in value.items()})
    return [tagged(item) for item in value] if isinstance(value, (list, tuple)) else value


class Template:
    """A parsed template. ``Template(text).render(data)``; raises TemplateError in both."""

    __slots__ = ("lexer", "nodes")

    def __init__(self, source: str) -> None:
        parser = Parser(source)
        self.lexer = parser.lexer
        self.nodes = parser.parse()

    def render(self, data: Any) -> str:
        out: list[str] = []
        Execution(self.lexer, out.append, data).run(self.nodes, data)
        return "".join(out)


class Execution:
    """One rendering: where the text goes, and the variables in scope (innermost last)."""

    __slots__ = ("lexer", "position", "variables", "write")

    def __init__(self, lexer: Lexer, write: Callable[[str], Any], data: Any) -> None:
        self.lexer = lexer
        self.write = write
        self.variables: list[tuple[str, Any]] = [("$", data)]
        self.position = 0

    def fail(self, problem: str) -> TemplateError:
        return self.lexer.fail(self.position, problem)

    def run(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                self.write(node[1])
            elif kind == "action":
                self.position = node[2]
                value = self.pipeline(node[1], dot)
                if not node[1][1]:
                    self.write(_text(value))
            elif kind in ("break", "continue"):
                raise _Loop(kind)
            else:
                self.position = node[4]
                mark = len(self.variables)
                try:
                    self.control(kind, node, dot)
                finally:
                    del self.variables[mark:]

    def control(self, kind: str, node: Node, dot: Any) -> None:
        _, pipeline, body, otherwise, _ = node
        if kind == "range":
            return self.range(pipeline, body, otherwise, dot)
        value = self.pipeline(pipeline, dot)
        if truth(value):
            return self.run(body, value if kind == "with" else dot)
        return self.run(otherwise, dot)

    def range(self, pipeline: Node, body: list[Node], otherwise: list[Node], dot: Any) -> None:
        _, names, declares, commands = pipeline
        value = self.pipeline(("pipe", [], False, commands), dot)
        items: Any
        if isinstance(value, dict):
            items = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, (list, tuple)):
            items = enumerate(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            items = ((i, i) for i in range(value))
        elif value is None or value is NO_VALUE:
            items = ()
        else:
            raise self.fail(f"range can't iterate over {_text(value)}")
        empty = True
        for key, item in items:
            empty = False
            mark = len(self.variables)
            given = (item,) if len(names) == 1 else (key, item)
            for name, part in zip(names, given):  # noqa: B905 (names may be empty)
                self.assign(name, part, declares)
            try:
                self.run(body, item)
            except _Loop as loop:
                if loop.args[0] == "break":
                    break
            finally:
                if declares or not names:
                    del self.variables[mark:]
        if empty:
            self.run(otherwise, dot)

    def assign(self, name: str, value: Any, declares: bool) -> None:
        if declares:
            self.variables.append((name, value))
            return
        for at in range(len(self.variables) - 1, -1, -1):
            if self.variables[at][0] == name:
                self.variables[at] = (name, value)
                return
        raise self.fail(f"undefined variable {name!r}")

    def pipeline(self, node: Node, dot: Any) -> Any:
        _, names, declares, commands = node
        value: Any = None
        for number, command in enumerate(commands):
            value = self.command(command, dot, (value,) if number else ())
        for name in names:
            self.assign(name, value, declares)
        return value

    def command(self, operands: list[Node], dot: Any, last: tuple[Any, ...]) -> Any:
        first = operands[0]
        if first[0] == "function":
            return self.function(first[1], operands[1:], dot, last)
        if first[0] == "nil":
            raise self.fail("nil is not a command")
        if len(operands) > 1 or last:
            arguments = [self.operand(operand, dot) for operand in operands[1:]] + list(last)
            return self.operand(first, dot, arguments)
        return self.operand(first, dot)

    def function(self, name: str, operands: list[Node], dot: Any, last: tuple[Any, ...]) -> Any:
        if name in ("and", "or"):  # short circuit
            value: Any = None
            for operand in operands:
                value = self.operand(operand, dot)
                if truth(value) == (name == "or"):
                    return value
            if last:
                value = last[0]
            elif not operands:
                raise self.fail(f"wrong number of args for {name}: want at least 1 got 0")
            return value
        from rl.cli.template_functions import FUNCTIONS, CallError

        arguments = [self.operand(operand, dot) for operand in operands] + list(last)
        function, least, most = FUNCTIONS[name]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            wanted = f"at least {least}" if most is None else str(least) if least == most else f"{least} to {most}"
            raise self.fail(f"wrong number of args for {name}: want {wanted} got {len(arguments)}")
        try:
            return function(*arguments)
        except CallError as error:
            raise self.fail(f"error calling {name}: {error}") from None

    def operand(self, node: Node, dot: Any, arguments: list[Any] | None = None) -> Any:
        kind = node[0]
        if kind == "field":
            return self.fields(dot, node[1], arguments)
        if kind == "dot":
            return dot
        if kind == "variable":
            value = self.variable(node[1])
            if arguments:
                raise self.fail(f"{node[1]} is not a function")
            return value
        if kind == "chain":
            base = node[1]
            value = self.pipeline(base, dot) if base[0] == "pipe" else self.variable(base[1])
            return self.fields(value, node[2], arguments)
        if kind == "pipe":
            return self.pipeline(node, dot)
        if kind == "function":
            return self.function(node[1], [], dot, ())
        return None if kind == "nil" else node[1]

    def variable(self, name: str) -> Any:
        for known, value in reversed(self.variables):
            if known == name:
                return value
        raise self.fail(f"undefined variable {name!r}")

    def fields(self, value: Any, names: list[str], arguments: list[Any] | None) -> Any:
        parent = ""
        for at, name in enumerate(names):
            if isinstance(value, dict):
                if name in value:
                    value = value[name]
                elif isinstance(value, Tagged):
                    key = value.find(name)
                    if key is None:
                        raise self.unknown(name, value)
                    value = value[key]
                elif _ALIASES.get(name) in value:
                    value = value[_ALIASES[name]]
                elif parent in _MAPS or not _is_struct(value):
                    value = NO_VALUE
                else:
                    raise self.unknown(name, value)
            elif value is None or value is NO_VALUE:
                raise self.fail(f"nil has no field {name}")
            else:
                raise self.fail(f"can't evaluate field {name} in {_type_name(value)}")
            if callable(value):
                value = value(*(arguments or ())) if at == len(names) - 1 else value()
            elif arguments and at == len(names) - 1:
                raise self.fail(f"{name} has arguments but is not a method")
            parent = name
        return value

    def unknown(self, name: str, value: dict[str, Any]) -> TemplateError:
        error = self.fail(f"can't evaluate field {name}")
        error.hint = "the fields here are: " + ", ".join(sorted(value))
        return error


def _is_struct(value: dict[str, Any]) -> bool:
    return isinstance(value, Tagged) or (bool(value) and all("A" <= str(key)[:1] <= "Z" for key in value))


def _type_name(value: Any) -> str:
    names = {"str": "string", "dict": "map", "list": "slice", "tuple": "slice", "float": "float64"}
    return names.get(type(value).__name__, type(value).__name__)


def truth(value: Any) -> bool:
    """Whether Go's templates take *value* as true: not zero, not empty."""
    return bool(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or value is NO_VALUE:
        return "<no value>"
    return go_text(value)


def go_text(value: Any) -> str:
    """*value* as Go's ``%v`` prints it."""
    if isinstance(value, str):
        return value
    if value is True or value is False:
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if value is NO_VALUE:
        return "<no value>"
    if isinstance(value, float):
        return go_float(value)
    if isinstance(value, (list, tuple)):
        return "[" + " ".join([go_text(item) for item in value]) + "]"
    if isinstance(value, dict):
        if _is_struct(value):
            return "{" + " ".join([go_text(item) for item in value.values() if not callable(item)]) + "}"
        return "map[" + " ".join([f"{key}:{go_text(value[key])}" for key in sorted(value)]) + "]"
    return str(value)


def go_float(value: float) -> str:
    """The shortest text that reads back as *value*, in Go's form: 1e+06, 3.14, 2."""
    if value != value or value in (float("inf"), float("-inf")):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "0"
    plain = len(whole) - 1 if whole != "0" else len(digits) - len(fraction) - 1
    power = int(exponent) if exponent else plain
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if -4 <= power < 6 and not exponent:
        return sign + (mantissa[:-2] if mantissa.endswith(".0") else mantissa)
    if power == -4:
        return f"{sign}0.000{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'-' if power < 0 else '+'}{abs(power):02d}"

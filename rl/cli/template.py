"""Go's text/template, for ``--format``: what scripts written for Podman and Docker contain.

A template is lexed by hand (``re`` costs more start-up time than a whole `rl ps`), parsed into nodes and
executed on plain data: dicts, lists, strings, numbers, booleans, None. A dict whose keys all begin with a
capital stands for a Go struct: a field it lacks is an error that names the ones it has. Every other dict is
a map: a key it lacks prints ``<no value>``. A value that is callable is a method; arguments may follow it.

Called by :mod:`rl.cli.output`. Source: https://pkg.go.dev/text/template. Left out: ``define``, ``template``, ``block``
and ``call``, which a ``--format`` has no use for.
"""

from __future__ import annotations

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Token = tuple[str, Any, bool]  # kind, value, whether a space came before
    Node = tuple[Any, ...]

#: Fields that hold maps though their keys may begin with capitals.
_MAPS = frozenset(("Labels", "Annotations", "Networks", "Ports", "PortBindings", "Tmpfs", "Volumes", "ExposedPorts",
                   "Options", "Config.Volumes", "Sysctl"))
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class TemplateError(UsageError):
    """A template that is wrong, or does not fit the data; the message says where."""


class _Loop(Exception):
    """break or continue of a range."""


class NoValue:
    """What a map gives for a key it lacks: false, printed as ``<no value>``."""

    def __bool__(self) -> bool:
        return False


NO_VALUE = NoValue()


def _is_word(character: str) -> bool:
    return character in _WORD or (character > "\x7f" and character.isalnum())


class Lexer:
    """Text and actions of a template; positions become ``line:column`` in errors."""

    __slots__ = ("source",)

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, at: int, problem: str) -> TemplateError:
        line = self.source.count("\n", 0, at) + 1
        column = at - (self.source.rfind("\n", 0, at) + 1) + 1
        return TemplateError(f"template {self.source!r}, {line}:{column}: {problem}")

    def parts(self) -> list[Node]:
        """("text", string) and ("action", tokens, position), in order."""
        source, found, at, trim = self.source, [], 0, False
        while True:
            start = source.find("{{", at)
            text = source[at:] if start < 0 else source[at:start]
            if trim:
                text = text.lstrip(_SPACE)
            if start < 0:
                if text:
                    found.append(("text", text))
                return found
            begin = start + 2
            if source[begin : begin + 1] == "-" and source[begin + 1 : begin + 2] in tuple(_SPACE):
                text = text.rstrip(_SPACE)
                begin += 2
            if text:
                found.append(("text", text))
            body = begin
            while source[body : body + 1] in tuple(_SPACE):
                body += 1
            if source.startswith("/*", body):
                end = source.find("*/", body)
                if end < 0:
                    raise self.fail(start, "unclosed comment")
                at, trim = self._close(end + 2, start, "comment ends before closing delimiter")
                continue
            tokens, end = self.tokens(begin, start)
            at, trim = self._close(end, start, "unclosed action")
            found.append(("action", tokens, start))

    def _close(self, at: int, start: int, problem: str) -> tuple[int, bool]:
        """The position after ``}}`` or `` -}}``, and whether the text after it is trimmed."""
        source = self.source
        while source[at : at + 1] in tuple(_SPACE):
            at += 1
        if source.startswith("}}", at):
            return at + 2, False
        if source.startswith("-}}", at) and source[at - 1] in _SPACE:
            return at + 3, True
        raise self.fail(start, problem)

    def tokens(self, at: int, start: int) -> tuple[list[Token], int]:
        """The tokens of the action that begins at *at*, and where its end delimiter is."""
        source, found, n = self.source, [], len(self.source)
        spaced = False
        while True:
            if at >= n:
                raise self.fail(start, "unclosed action")
            c = source[at]
            if c in _SPACE:
                at, spaced = at + 1, True
                continue
            if source.startswith("}}", at) or (spaced and source.startswith("-}}", at)):
                return found, at
            begin = at
            if c in "\"`'":
                value, at = self._quoted(at)
                found.append(("char" if c == "'" else "string", value, spaced))
            elif c.isdigit() or (c in "+-." and source[at + 1 : at + 2].isdigit()):
                while at < n and (_is_word(source[at]) or source[at] == "." or source[at] in "+-"
                                  and (at == begin or source[at - 1] in "eE")):
                    at += 1
                found.append(("number", self._number(source[begin:at], begin), spaced))
            elif c in ".$" or _is_word(c):
                at += 1
                while at < n and _is_word(source[at]):
                    at += 1
                kind = "field" if c == "." else "variable" if c == "$" else "word"
                found.append((kind, source[begin + 1 : at] if c == "." else source[begin:at], spaced))
            elif source.startswith(":=", at):
                at += 2
                found.append(("declare", ":=", spaced))
            elif c in "|(),=":
                at += 1
                found.append((c, c, spaced))
            else:
                raise self.fail(at, f"unexpected {c!r} in an action")
            spaced = False

    def _quoted(self, at: int) -> tuple[Any, int]:
        source, quote, begin = self.source, self.source[at], at
        at += 1
        if quote == "`":
            end = source.find("`", at)
            if end < 0:
                raise self.fail(begin, "unterminated raw quoted string")
            return source[at:end], end + 1
        text = ""
        while True:
            c = source[at : at + 1]
            if c in ("", "\n"):
                raise self.fail(begin, "unterminated quoted string")
            at += 1
            if c == quote:
                break
            if c == "\\":
                c, at = self._escape(at)
            text += c
        if quote == "'":
            if len(text) != 1:
                raise self.fail(begin, "malformed character constant")
            return ord(text), at
        return text, at

    def _escape(self, at: int) -> tuple[str, int]:
        c = self.source[at : at + 1]
        if c in _ESCAPES:
            return _ESCAPES[c], at + 1
        length = {"x": 2, "u": 4, "U": 8}.get(c, 0)
        digits = self.source[at + 1 : at + 1 + length]
        try:
            if length and len(digits) == length:
                return chr(int(digits, 16)), at + 1 + length
            if c in "01234567" and c:
                return chr(int(self.source[at : at + 3], 8)), at + 3
        except (ValueError, OverflowError):
            pass
        raise self.fail(at, f"unknown escape \\{c} in a string")

    def _number(self, text: str, at: int) -> Any:
        try:
            if text.lstrip("+-")[:2].lower() in ("0x", "0b", "0o"):
                return int(text, 0)
            return int(text) if text.lstrip("+-").replace("_", "").isdigit() else float(text)
        except ValueError:
            raise self.fail(at, f"bad number {text!r}") from None


class Parser:
    """Nodes from parts. A node list is what stands between two control actions."""

    __slots__ = ("at", "lexer", "parts", "position", "tokens")

    def __init__(self, source: str) -> None:
        self.lexer = Lexer(source)
        self.parts = self.lexer.parts()
        self.at = 0
        self.tokens: list[Token] = []
        self.position = 0

    def fail(self, problem: str) -> TemplateError:
        return self.lexer.fail(self.position, problem)

    def parse(self) -> list[Node]:
        nodes, end = self.block(in_range=False)
        if end:
            raise self.fail(f"unexpected {{{{{end}}}}}")
        return nodes

    def block(self, in_range: bool) -> tuple[list[Node], str]:
        """Nodes up to end, else, or the end of the template; and which of them it was."""
        nodes: list[Node] = []
        while self.at < len(self.parts):
            part = self.parts[self.at]
            self.at += 1
            if part[0] == "text":
                nodes.append(part)
                continue
            self.tokens, self.position = list(part[1]), part[2]
            if not self.tokens:
                raise self.fail("missing value for command")
            kind, word, _ = self.tokens[0]
            if kind == "word" and word in ("end", "else"):
                del self.tokens[0]
                if word == "end" and self.tokens:
                    raise self.fail("unexpected text after end")
                return nodes, word
            if kind == "word" and word in ("if", "with", "range"):
                nodes.append(self.control(word, in_range))
            elif kind == "word" and word in ("break", "continue"):
                if not in_range:
                    raise self.fail(f"{{{{{word}}}}} outside {{{{range}}}}")
                nodes.append((word,))
            elif kind == "word" and word in ("define", "template", "block"):
                raise self.fail(f"{{{{{word}}}}} is not supported in a --format")
            else:
                nodes.append(("action", self.whole_pipeline("command"), self.position))
        return nodes, ""

    def control(self, word: str, in_range: bool) -> Node:
        del self.tokens[0]
        position = self.position
        pipeline = self.whole_pipeline(word, ranged=word == "range")
        body, end = self.block(in_range or word == "range")
        otherwise: list[Node] = []
        if end == "else":
            if self.tokens:
                if self.tokens[0][:2] not in (("word", "if"), ("word", "with")) or self.tokens[0][1] != word:
                    raise self.fail("unexpected text after else")
                otherwise = [self.control(word, in_range)]
                return (word, pipeline, body, otherwise, position)
            otherwise, end = self.block(in_range)
        if end != "end":
            self.position = position
            raise self.fail(f"unclosed {{{{{word}}}}}" if not end else f"unexpected {{{{{end}}}}}")
        return (word, pipeline, body, otherwise, position)

    def whole_pipeline(self, context: str, ranged: bool = False) -> Node:
        pipeline = self.pipeline(context, ranged)
        if self.tokens:
            raise self.fail(f"unexpected {self.tokens[0][1]!r} in {context}")
        return pipeline

    def pipeline(self, context: str, ranged: bool = False) -> Node:
        """("pipe", variables, whether they are declared here, commands)"""
        variables: list[str] = []
        declares = False
        tokens = self.tokens
        if tokens and tokens[0][0] == "variable":
            if ranged and len(tokens) > 3 and tokens[1][0] == "," and tokens[2][0] == "variable":
                variables, count = [tokens[0][1], tokens[2][1]], 3
            else:
                variables, count = [tokens[0][1]], 1
            if len(tokens) > count and tokens[count][0] in ("declare", "="):
                declares = tokens[count][0] == "declare"
                del tokens[: count + 1]
            elif count == 3:
                raise self.fail("range wants := or = after two variables")
            else:
                variables = []
        commands = []
        while True:
            command = self.command()
            if not command:
                raise self.fail(f"missing value for {context}")
            if commands and command[0][0] not in ("function", "field", "chain", "variable"):
                raise self.fail("only a function or a method can take what stands before |")
            if len(command) > 1 and command[0][0] in ("number", "string", "char", "bool", "dot"):
                raise self.fail("can't give argument to non-function")
            commands.append(command)
            if not self.tokens or self.tokens[0][0] != "|":
                return ("pipe", variables, declares, commands)
            del self.tokens[0]

    def command(self) -> list[Node]:
        operands: list[Node] = []
        while self.tokens and self.tokens[0][0] not in ("|", ")"):
            if operands and not self.tokens[0][2] and self.tokens[0][0] != "(":
                raise self.fail(f"unexpected {self.tokens[0][1]!r} in operand")
            operands.append(self.operand())
        return operands

    def operand(self) -> Node:
        kind, value, _ = self.tokens.pop(0)
        node: Node
        if kind == "field":
            node = ("field", [value], self.position) if value else ("dot",)
            if not value and self.tokens and self.tokens[0][0] == "field" and not self.tokens[0][2]:
                raise self.fail("unexpected . after .")
        elif kind == "word":
            node = self._named(value)
        elif kind == "(":
            node = self.pipeline("parenthesized pipeline")
            if not self.tokens or self.tokens[0][0] != ")":
                raise self.fail("unclosed left paren")
            del self.tokens[0]
        elif kind in ("number", "string", "char", "variable"):
            node = (kind, value)
        else:
            raise self.fail(f"unexpected {value!r} in command")
        names: list[str] = []
        while self.tokens and self.tokens[0][0] == "field" and not self.tokens[0][2] and self.tokens[0][1]:
            names.append(self.tokens.pop(0)[1])
        if not names:
            return node
        if node[0] == "field":
            return ("field", node[1] + names, self.position)
        if node[0] not in ("pipe", "variable"):
            raise self.fail(f"unexpected .{names[0]} after operand")
        return ("chain", node, names, self.position)

    def _named(self, word: str) -> Node:
        if word in ("true", "false"):
            return ("bool", word == "true")
        if word == "nil":
            return ("nil",)
        if word not in ("and", "or"):
            from rl.cli.template_functions import FUNCTIONS

            if word not in FUNCTIONS:
                raise self.fail(f"function {word!r} not defined")
        return ("function", word)


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
    return bool(value) and all("A" <= str(key)[:1] <= "Z" for key in value)


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
    if exponent:
        power = int(exponent)
    else:
        power = len(whole) - 1 if whole != "0" else len(digits) - len(fraction) - 1
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if -4 <= power < 6 and not exponent:
        return sign + (mantissa[:-2] if mantissa.endswith(".0") else mantissa)
    if power == -4:
        return f"{sign}0.000{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'-' if power < 0 else '+'}{abs(power):02d}"

"""The syntax of Go's text/template: characters → tokens → nodes.

Called by :mod:`rl.cli.template`, which executes the nodes. Lexed by hand: ``re`` costs more start-up time than
a whole `rl ps` may take. Source: https://pkg.go.dev/text/template.

Nodes are tuples that begin with their kind: ("text", s), ("action", pipeline, position), ("if" | "with" | "range",
pipeline, body, otherwise, position), ("break",), ("continue",). A pipeline is ("pipe", variables, declares, commands);
a command is a list of operands.
"""

from __future__ import annotations

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Token = tuple[str, Any, bool]  # kind, value, whether a space came before
    Node = tuple[Any, ...]

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class TemplateError(UsageError):
    """A template that is wrong, or does not fit the data; the message says where."""


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
        hint = "write it as a template of Go: {{.Name}}, {{range .Names}}…{{end}}; {{json .}} shows all there is"
        return TemplateError(f"template {self.source!r}, {line}:{column}: {problem}", hint)

    def parts(self) -> list[Node]:
        """("text", string) and ("action", tokens, position), in order."""
        found: list[Node] = []
        source, at, trim = self.source, 0, False
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
        found: list[Token] = []
        source, n = self.source, len(self.source)
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
                while at < n and (_is_word(source[at]) or source[at] == "." or (source[at] in "+-"
                                  and (at == begin or source[at - 1] in "eE"))):
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
        commands: list[list[Node]] = []
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

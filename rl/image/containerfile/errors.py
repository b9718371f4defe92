"""An error in a Containerfile, with the place it is at."""

from __future__ import annotations

from rl.errors import UsageError


class ContainerfileError(UsageError):
    """``name:line:column: what``, the line itself and a caret below the column (both counted from 1)."""

    def __init__(self, file: str, line: int, column: int, text: str, what: str, hint: str = "") -> None:
        self.line = line
        self.column = column
        shown = text.rstrip("\r\n").expandtabs(1)
        caret = " " * (min(max(column, 1), len(shown) + 1) - 1) + "^"
        super().__init__(f"{file}:{line}:{column}: {what}\n  {shown}\n  {caret}", hint)

"""The second reader of option tables (see :mod:`rl.cli`): click, for help, usage errors and completion.

Called by :mod:`rl.cli.dispatch` with command lines that the fast reader refused, by `rl help` and
`rl completion`. Messages and exit codes are those of Podman (125 for every usage error).
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem, get_completion_class

from rl.cli import parse, refused
from rl.cli.dispatch import execute, load
from rl.cli.verbs import NOUNS, find, listing, names_of

_WIDTH = 118


class Boolean(click.types.BoolParamType):
    """A flag's value: what Go takes, not all that click takes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or isinstance(value, bool):
            return value
        try:
            return parse.boolean(str(value))
        except ValueError as error:
            raise _bad_value(param, ctx, value, error) from None


class Checked(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A value, checked and converted by the same code as in the fast reader."""

    name = "value"

    def __init__(self, row: parse.Row) -> None:
        self.row = row

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            if self.row[1] == "list":
                return parse.split_list(value) if value else []
            return parse.convert(self.row[4] if len(self.row) > 4 else None, value)
        except ValueError as error:
            raise _bad_value(param, ctx, value, error) from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if len(self.row) > 4 and isinstance(self.row[4], tuple):
            return [CompletionItem(word) for word in self.row[4] if word.startswith(incomplete)]
        if self.row[2] in ("PATH", "DIR", "FILE") or "DIR" in self.row[2]:
            return [CompletionItem(incomplete, type="dir" if self.row[2] == "DIR" else "file")]
        return []


def _bad_value(
    param: click.Parameter | None, ctx: click.Context | None, value: Any, error: ValueError
) -> click.BadParameter:
    names = ", ".join(_shown(param.row[0])) if isinstance(param, Option) else ""
    return click.BadParameter(f'invalid argument "{value}" for "{names}" flag: {error}', ctx=ctx, param=param)


def _shown(names: str) -> list[str]:
    """The names help shows: short ones and the first long one."""
    words = names.split(" ")
    long_names = [word for word in words if word.startswith("--")]
    return [word for word in words if not word.startswith("--")] + long_names[:1]


class Option(click.Option):
    """One row of a table."""

    def __init__(self, row: parse.Row, hidden: bool = False) -> None:
        self.row = row
        flag = row[1] == "flag"
        settings: dict[str, Any] = (
            {"is_flag": True, "flag_value": True, "default": None, "type": Boolean()}
            if flag
            else {"is_flag": True, "flag_value": "true", "default": None, "type": Checked(row)}
            if row[1] == "optional"
            else {"type": Checked(row), "metavar": row[2], "multiple": row[1] in ("array", "list")}
        )
        hidden = hidden or row[3].startswith("!")
        super().__init__([*row[0].split(" "), parse.key_of(row[0])], help=row[3], hidden=hidden, **settings)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.hidden:
            return None
        names = _shown(self.row[0])
        left = ", ".join(names) if len(names) > 1 or len(names[0]) == 2 else f"    {names[0]}"
        return f"{left} {self.row[2]}".rstrip(), self.row[3]


def _group_of(command: str) -> str:
    """The noun to which a command belongs that Podman has at the top level, too."""
    return next((noun for noun in NOUNS if refused.command(f"{noun} {command}")), "")


class _Dialect(click.Command):
    """Teaches click's parser the two habits of pflag that it lacks: ``--rm=false`` and ``-p=80:80``."""

    def make_parser(self, ctx: click.Context) -> Any:
        parser: Any = super().make_parser(ctx)
        plain_long = parser._match_long_opt

        def put(option: Any, name: str, value: str | None, state: Any) -> None:
            if option.takes_value:
                if value is not None:
                    state.rargs.insert(0, value)
                try:
                    taken = parser._get_value_from_state(name, option, state)
                except click.BadOptionUsage as error:
                    error.ctx = ctx
                    raise
                option.process(taken, state)
            elif value is None:
                option.process(None, state)
            else:
                state.opts[option.dest] = value
                state.order.append(option.obj)

        def refuse(name: str) -> None:
            error = refused.error(names_of(getattr(self, "full_name", "")), name)
            if error is not None and not ctx.resilient_parsing:
                raise error

        def match_long(name: str, value: str | None, state: Any) -> None:
            option = parser._long_opt.get(name)
            if option is None:
                refuse(name)
                plain_long(name, value, state)  # raises NoSuchOption
            put(option, name, value, state)

        def match_short(word: str, state: Any) -> None:
            for at in range(1, len(word)):
                name, rest = f"-{word[at]}", word[at + 1 :]
                option = parser._short_opt.get(name)
                if option is None:
                    refuse(name)
                    raise click.NoSuchOption(word, f"unknown shorthand flag: '{word[at]}' in {word}", ctx=ctx)
                if rest[:1] == "=" and len(rest) > 1:
                    return put(option, name, rest[1:], state)
                if option.takes_value:
                    return put(option, name, rest or None, state)
                put(option, name, None, state)
            return None

        parser._match_long_opt = match_long
        parser._match_short_opt = match_short
        return parser

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] " + getattr(self, "usage", "COMMAND"))


class Verb(_Dialect):
    """The click command of one verb's table."""

    def __init__(self, name: str, verb: Any, invoked: Callable[[dict[str, Any], list[str]], int] | None = None) -> None:
        own = {word for row in verb.OPTIONS for word in row[0].split(" ")}
        params: list[click.Parameter] = [Option(row) for row in verb.OPTIONS]
        params += [Option(row, hidden=True) for row in parse.GLOBAL if own.isdisjoint(row[0].split(" "))]
        params.append(
            click.Argument(
                ["arguments"], nargs=-1, type=click.UNPROCESSED, metavar=verb.USAGE or None,
                shell_complete=_completer(verb),
            )
        )
        super().__init__(
            name.rpartition(" ")[2], params=params, help=verb.HELP, callback=self._called,
            context_settings={
                "help_option_names": ["--help"] if "-h" in own else ["-h", "--help"],
                "allow_interspersed_args": verb.INTERSPERSED, "max_content_width": _WIDTH,
            },
        )
        self.verb, self.usage, self.full_name = verb, verb.USAGE, name
        self.invoked = invoked

    def _called(self, arguments: Sequence[str], **values: Any) -> int:
        context = click.get_current_context()
        options = given_options(context, values)
        if self.invoked is not None:
            return self.invoked(options, list(arguments))
        given = context.find_root().obj or {}
        return execute(self.verb, self.full_name, given, options, list(arguments))


def given_options(context: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Only what the user gave, in the fast reader's shape."""
    options: dict[str, Any] = {}
    for parameter in context.command.params:
        key = parameter.name or ""
        if not isinstance(parameter, Option) or context.get_parameter_source(key) is not ParameterSource.COMMANDLINE:
            continue
        value = values[key]
        kind = parameter.row[1]
        if kind == "list":
            options[key] = [word for words in value for word in words]
        else:
            options[key] = list(value) if kind == "array" else value
    return options


class Commands(_Dialect, click.Group):
    """`rl`, and each noun: lists its commands from the static table, imports the one that is called."""

    def __init__(self, noun: str = "") -> None:
        params: list[click.Parameter] = [] if noun else [Option(row) for row in parse.GLOBAL]
        if not noun:
            params.append(Option(("-v --version", "flag", "", "Print the version")))
        super().__init__(
            noun or "rl", params=params, help=NOUNS.get(noun, "Run containers without root and without a daemon."),
            invoke_without_command=True, callback=self._bare,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH},
        )
        self.noun = noun

    def _bare(self, **values: Any) -> int | None:
        context = click.get_current_context()
        if not self.noun:
            context.obj = given_options(context, values)
            if context.obj.pop("version", False):
                from rl import __version__

                click.echo(f"rl version {__version__}")
                context.exit(0)
        if context.invoked_subcommand is None:
            click.echo(context.get_help())
            raise click.UsageError(f"missing command `{context.command_path} COMMAND`", context)
        return None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _ in listing(self.noun)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if not self.noun and cmd_name in NOUNS:
            return Commands(cmd_name)
        words = [self.noun, cmd_name] if self.noun else [cmd_name]
        module, _ = find(words)
        return Verb(" ".join(words), load(module)) if module else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            known = refused.command_error(f"{self.noun or _group_of(args[0])} {args[0]}")
            if known is not None:
                raise known
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 3, 0.5)
            message = f"unrecognized command `{ctx.command_path} {args[0]}`"
            if near:
                message += "\n\nDid you mean this?\n" + "".join(f"\t{name}\n" for name in near)
            raise click.UsageError(message, ctx)
        return (args[0] if command else None), command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(listing(self.noun))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=text) for name, text in listing(self.noun) if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def invoke(argv: Sequence[str]) -> int:
    """Run the command line through click; prints help or the usage error. Returns the exit code."""
    try:
        result = Commands().main(list(argv), prog_name="rl", standalone_mode=False)
    except click.Abort:
        return 130
    except click.ClickException as error:
        sys.stdout.flush()
        sys.stderr.write(_explain(error))
        return 125
    return result if isinstance(result, int) else 0


def _explain(error: click.ClickException) -> str:
    """The usage error in Podman's words, and where help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "rl"
    message = error.message
    if isinstance(error, click.NoSuchOption):
        if error.option_name.startswith("--"):
            message = f"unknown flag: {error.option_name}"
            near = difflib.get_close_matches(error.option_name, error.possibilities or [], 1, 0.75)
            if near:
                message += f" (did you mean {near[0]}?)"
    elif isinstance(error, click.BadOptionUsage):
        name = error.option_name
        shown = name if name.startswith("--") else f"'{name[1:]}' in {name}"
        message = f"flag needs an argument: {shown}"
    return f"Error: {message.rstrip()}\nSee '{path} --help'\n"


def _completer(verb: Any) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completion of a verb's arguments: container names, image names, or commands."""

    def complete_argument(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        kinds = getattr(verb, "COMPLETE", "").split()
        given = ctx.params.get("arguments") or ()
        if not verb.INTERSPERSED and given:
            return [CompletionItem(incomplete, type="file")]
        found: list[CompletionItem] = []
        for kind in kinds:
            found += [CompletionItem(name) for name in _NAMES[kind]() if name.startswith(incomplete)]
        if "file" in kinds:
            found.append(CompletionItem(incomplete, type="file"))
        return found

    return complete_argument


def _paths() -> Any:
    from rl.config.paths import Paths

    return Paths.from_environment(os.environ)


def _list(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _container_names() -> list[str]:
    return _list(_paths().names)


def _image_names() -> list[str]:
    from rl.image import store

    names = sorted(record["name"] for record in store.list_images(_paths())[0] if record["name"])
    return names + [short for name in names for short in _shorter(name)]


def _secret_names() -> list[str]:
    from rl.engine import secrets

    return [record["name"] for record in secrets.records(_paths())]


def _shorter(name: str) -> list[str]:
    for prefix in ("docker.io/library/", "docker.io/"):
        if name.startswith(prefix):
            return [name[len(prefix) :]]
    return []


def _commands() -> list[str]:
    return [name for name, _ in listing()]


_NAMES: dict[str, Callable[[], list[str]]] = {
    "container": _container_names,
    "image": _image_names,
    "volume": lambda: _list(_paths().volumes),
    "secret": _secret_names,
    "command": _commands,
    "shell": lambda: ["bash", "fish", "zsh"],
    "file": list,
}

COMPLETE_VARIABLE = "_RL_COMPLETE"


def completion_script(shell: str) -> str:
    """The script that *shell* (bash, fish, zsh) loads."""
    cls = get_completion_class(shell)
    if cls is None:
        raise ValueError(shell)
    return cls(Commands(), {}, "rl", COMPLETE_VARIABLE).source()


def complete() -> int:
    """Answer the completion script's question, which is in the environment."""
    from click.shell_completion import shell_complete

    return shell_complete(Commands(), {}, "rl", COMPLETE_VARIABLE, os.environ[COMPLETE_VARIABLE])

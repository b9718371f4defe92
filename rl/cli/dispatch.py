"""From the words of a command line to the call of one verb.

Called by :mod:`rl.__main__`; :mod:`rl.cli.clicked` comes back here with what click has read.
"""

from __future__ import annotations

import os
import sys

from rl.cli import parse
from rl.cli.verbs import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine
    from rl.engine.prefork import Handle


def dispatch(argv: list[str], handle: Handle | None) -> int:
    """The exit code of the verb that *argv* asks for; *handle*: a monitor-to-be that `run` may take."""
    try:
        given, words = parse.read((parse.GLOBAL,), argv, interspersed=False)
        module, count = find(words) if words else ("", 0)
        if not module:
            raise parse.Refused("no such command")
        verb = load(module)
        options, arguments = parse.read((verb.OPTIONS, parse.GLOBAL), words[count:], verb.INTERSPERSED)
    except parse.Refused:
        abandon(handle)
        from rl.cli.clicked import invoke

        return invoke(argv)
    return execute(verb, " ".join(words[:count]), given, options, arguments, handle)


def load(name: str) -> Any:
    """The verb's module, by its name below rl.cli."""
    module = f"rl.cli.{name}"
    __import__(module)
    return sys.modules[module]


def execute(
    verb: Any, name: str, given: dict[str, Any], options: dict[str, Any], arguments: list[str],
    handle: Handle | None = None,
) -> int:
    """Call the verb; *given* are the global options from before it, more may be among *options*.

    Raises whatever the verb raises, and UsageError for a wrong number of arguments.
    """
    own = {parse.key_of(row[0]) for row in verb.OPTIONS}
    for row in parse.GLOBAL:
        key = parse.key_of(row[0])
        if key in options and key not in own:
            given[key] = options.pop(key)
    engine: Engine | None = None
    try:
        parse.check_count(f"rl {name}", arguments, *verb.ARGUMENTS)
        level = given.get("log_level", "warn")
        if level in ("debug", "trace"):
            os.environ["RL_DEBUG"] = "1"
        if not getattr(verb, "STATELESS", False):
            engine = make_engine(given, level, handle)
        code: int = verb.run(engine, options, arguments)
    finally:
        # `rl run` takes the monitor-to-be by setting engine.prefork to None.
        abandon(engine.prefork if engine is not None else handle)
    return code


def make_engine(given: dict[str, Any], level: str, handle: Handle | None) -> Engine:
    from rl.engine.context import Engine

    engine = Engine.from_environment(os.environ, **given)
    if level not in ("error", "fatal", "panic"):
        engine.warn = warn
    engine.prefork = handle
    if "events_backend" in given:
        from rl.engine import events

        events.use(given["events_backend"])
    engine.render = _render
    return engine


def _render(template: str, document: Any) -> str:
    from rl.cli.template import Template, tagged

    return Template(template).render(tagged(document))


def abandon(handle: Handle | None) -> None:
    """Let the monitor-to-be go, if nobody took it."""
    if handle is not None:
        handle.abandon()


def warn(message: str) -> None:
    """Print what the user should see though the verb goes on."""
    from rl.errors import printable

    try:
        sys.stdout.flush()
    except OSError:
        pass
    sys.stderr.write(f"Warning: {printable(message)}\n")

"""What Podman has and rl refuses is answered with the reason, and with what to do instead."""

from __future__ import annotations

import pytest

from rl.cli import clicked, dispatch, refused, verbs
from rl.errors import UnsupportedError


def known_to_rl(command: str) -> set[str]:
    module, _ = verbs.find(command.split())
    return {name for row in dispatch.load(module).OPTIONS for name in row[0].split(" ")}


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, flags in refused.FLAGS.items() for flag in flags])
def test_a_refused_flag_is_answered_with_its_reason(command: str, flag: str) -> None:
    """By every name of the command; one that the table of the command has, too, is refused by the engine."""
    module, _ = verbs.find(command.split())
    assert module, f"refused.FLAGS names {command!r}, which is no command"
    if flag in known_to_rl(command):
        return
    for name in verbs.names_of(command):
        with pytest.raises(UnsupportedError) as caught:
            clicked.invoke([*name.split(), flag, "x"])
        assert caught.value.message.startswith(f"{flag} is not available: ")


def test_reasons_are_for_people() -> None:
    reasons = [reason for flags in refused.FLAGS.values() for reason in flags.values()] + list(refused.COMMANDS.values())
    for reason in reasons:
        assert len(reason) > 20 and not reason.endswith("."), reason
        assert "; " in reason, "what follows the semicolon is the hint"
    assert not set(refused.COMMANDS) & {name for _, names, _ in verbs.VERBS for name in names}
    assert refused.flags("container no-such") == {} and refused.command("container run") == ""
    assert refused.error(("run", "container run"), "--no-such") is None


def test_a_refused_command_is_answered_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(refused.COMMANDS, "container teleport", "there is no device for it; walk")
    for line in (["container", "teleport", "x"], ["teleport"]):
        with pytest.raises(UnsupportedError, match="there is no device for it") as caught:
            clicked.invoke(line)
        assert caught.value.hint == "walk"

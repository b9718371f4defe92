"""`rl image trust show` and `rl image trust set`."""

from __future__ import annotations

from rl.cli import output
from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "show|set [REGISTRY]"
ARGUMENTS = (1, 2)
INTERSPERSED = True
OPTIONS = (
    ("-j --json", "flag", "", "show: print JSON"),
    ("-n --noheading", "flag", "", "show: leave the headings out"),
    ("-f --pubkeysfile", "array", "PATH", "set: file of public keys, for signedBy (GPG) and sigstoreSigned (PEM)"),
    ("--raw", "flag", "", "show: print the policy's file as it is"),
    ("-t --type", "value", "TYPE", "set: accept, reject, signedBy (default), sigstoreSigned"),
)
HELP = """Show which images are accepted, or change it.

The policy is ~/.config/containers/policy.json or, where there is none, /etc/containers/policy.json; `set` writes the
first. REGISTRY is a registry, a repository, or default.
"""
_COLUMNS = (("TRANSPORT", "transport"), ("NAME", "name"), ("TYPE", "type"), ("ID", "gpgId"), ("STORE", "sigstore"))


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    what, rest = arguments[0], arguments[1:]
    if what == "set":
        if not rest or any(options.get(flag) for flag in ("json", "noheading", "raw")):
            what = "image trust set takes a registry, --type and --pubkeysfile"
            raise UsageError(what, "rl image trust set -t accept NAME")
        from rl.engine.trust import change

        change(engine, rest[0], options.get("type", "signedBy"), options.get("pubkeysfile", []))
        return 0
    if what != "show":
        raise UsageError(f"image trust {what}: neither show nor set", "rl image trust show")
    if options.get("type") or options.get("pubkeysfile"):
        raise UsageError("--type and --pubkeysfile are for image trust set")
    from rl.engine import trust

    if options.get("raw"):
        output.write(trust.raw(engine))
        return 0
    rows = [row for row in trust.show(engine) if not rest or rest[0] in (row["name"], row["repo_name"])]
    if options.get("json"):
        shown = [{key: value for key, value in row.items() if value} for row in rows]
        output.write(output.to_json(shown, "    ") + "\n")
        return 0
    text = output.columns(rows, _COLUMNS)
    output.write(text.partition("\n")[2] if options.get("noheading") else text)
    return 0

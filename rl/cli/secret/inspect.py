"""`rl secret inspect`: what is known of secrets."""

from __future__ import annotations

from rl.cli import output
from rl.errors import NoSuchSecretError, RlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "SECRET [SECRET...]"
ARGUMENTS = (1, None)
INTERSPERSED = True
COMPLETE = "secret"
OPTIONS = (
    ("-f --format", "value", "FORMAT", "json, or a Go template"),
    ("--pretty", "flag", "", "Print it to be read by people"),
    ("--showsecret", "flag", "", "Show what the secret holds, too"),
)
HELP = "Show all that is known of secrets; what they hold only with --showsecret."


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import secrets

    text, pretty = options.get("format", ""), bool(options.get("pretty"))
    if text and pretty:
        raise UsageError("--format and --pretty contradict each other", "use one of them")
    documents: list[dict[str, Any]] = []
    errors: list[RlError] = []
    for name in arguments:
        try:
            documents.append(secrets.inspect(engine, name, bool(options.get("showsecret"))))
        except NoSuchSecretError as error:
            errors.append(type(error)(f"inspecting secret: {error.message}", error.hint))
        except RlError as error:
            errors.append(error)
    if pretty:
        output.write("".join([_pretty(document) for document in documents]))
    elif text not in ("", "json"):
        output.write("".join([output.render(text, _shown(document)) for document in documents]))
    else:
        output.write(output.to_json(documents, "    ") + "\n")
    for failed in errors:
        output.complain(failed)
    return errors[-1].exit_code if errors else 0


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    """For templates: times as Go prints them."""
    from rl.cli.template import tagged
    from rl.engine.times import go_time

    times = {key: go_time(document[key]) for key in ("CreatedAt", "UpdatedAt")}
    return tagged({**document, **times})  # type: ignore[no-any-return]


def _pretty(document: dict[str, Any]) -> str:
    shown, spec = _shown(document), document["Spec"]
    lines = [("ID", document["ID"]), ("Name", spec["Name"])]
    lines += [("Labels", "")] if spec["Labels"] else []
    lines += [(f" - {key}", value) for key, value in spec["Labels"].items()]
    lines += [("Driver", spec["Driver"]["Name"])]
    lines += [("Created at", shown["CreatedAt"]), ("Updated at", shown["UpdatedAt"])]
    if "SecretData" in document:
        lines.append(("Secret", document["SecretData"]))
    return "".join([f"{title + ':':<17}{value}".rstrip() + "\n" for title, value in lines])

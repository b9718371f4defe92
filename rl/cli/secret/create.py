"""`rl secret create`: keep a secret."""

from __future__ import annotations

from rl.engine.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine

USAGE = "NAME FILE|-"
ARGUMENTS = (2, 2)
INTERSPERSED = True
COMPLETE = "file"
OPTIONS = (
    ("-d --driver", "value", "NAME", "Who keeps it: file (default; not encrypted), pass (gpg), shell (your commands)"),
    ("--driver-opts", "list", "KEY=VALUE", "Option of the driver, such as path=DIR of file"),
    ("--env", "flag", "", "FILE is the name of an environment variable that holds the data"),
    ("--ignore", "flag", "", "If the name is taken, print the id of the secret that has it"),
    ("-l --label", "array", "KEY=VALUE", "Add a label"),
    ("--replace", "flag", "", "Take the place of a secret of that name"),
)
HELP = """Keep the content of a file, or of standard input, as a secret; prints its id.

Containers get it by `rl run --secret NAME`. It is at most 500 kB.
"""


def run(engine: Engine, options: dict[str, Any], arguments: list[str]) -> int:
    from rl.engine import secrets

    name, source = arguments
    labels = values.pairs(options.get("label", []), "--label")
    settings = values.pairs(options.get("driver_opts", []), "--driver-opts", strict=True)
    secrets.check_name(name)
    print(
        secrets.create(
            engine, name, secrets.read_source(source, bool(options.get("env"))), driver=options.get("driver", "file"),
            options=settings, labels=labels, replace=bool(options.get("replace")), ignore=bool(options.get("ignore")),
        )
    )
    return 0

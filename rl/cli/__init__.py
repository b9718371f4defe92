"""The command line: arguments in, one engine call, text and an exit code out.

**One table per verb, two readers.** `import click` costs 40 ms on the reference machine, while a whole
`rl ps` may take 21 ms and `rl exec` 43. So a verb is a module ``rl/cli/<noun>/<verb>.py`` of plain data
(``USAGE``, ``ARGUMENTS``, ``OPTIONS``, ``HELP``) and one function ``run(engine, options, arguments) -> int``,
and its table has two readers:

- :mod:`rl.cli.parse` reads command lines that are right. It imports nothing and takes microseconds.
- :mod:`rl.cli.clicked` builds a click command from the same table. It answers what is not on the
  fast path: ``--help``, usage errors and shell completion.

A command line that the first does not understand goes to the second. ``tests/unit/cli/test_drift.py``
holds both to the same answers. :mod:`rl.cli.verbs` maps command names to modules, so that a verb's
module is imported only when it is called.

Called by :func:`rl.__main__.main`.
"""

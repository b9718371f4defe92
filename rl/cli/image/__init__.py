"""Verbs about images; one file each, see :mod:`rl.cli`."""

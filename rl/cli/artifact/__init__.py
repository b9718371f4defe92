"""Verbs about artifacts; one file each, see :mod:`rl.cli`."""

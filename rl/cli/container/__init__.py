"""Verbs about containers; one file each, see :mod:`rl.cli`."""

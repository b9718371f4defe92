"""Verbs about secrets; one file each, see :mod:`rl.cli`."""

"""What the verbs mean: one verb, one module, one function; no printing, no exiting.

Called by the command line and, as a Python API, by scripts. Every function takes the
:class:`~rl.engine.context.Engine` first and raises :class:`~rl.errors.RlError`.
"""

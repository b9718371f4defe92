"""Containerfiles (Dockerfiles): reading them, and what their words mean.

- :mod:`lines`: logical lines: parser directives, comments, continuations, heredocs;
- :mod:`parser`: instructions with flags and operands, stages; :func:`parse` is the entry;
- :mod:`expansion`: variables in words, as BuildKit's shell lexer expands them;
- :mod:`configure`: what an instruction does to an image's configuration;
- :mod:`ignore`: .dockerignore;
- :mod:`lint`: what is allowed and unwise.

The parsers on PyPI know neither heredocs nor flags with their places (dockerfile-parse), or are Go (dockerfile).

Source: the Dockerfile reference; BuildKit's frontend/dockerfile (parser, shell, instructions), read, not copied.
"""

from rl.image.containerfile.errors import ContainerfileError
from rl.image.containerfile.parser import Containerfile, Instruction, Stage, parse, triggers

__all__ = ["Containerfile", "ContainerfileError", "Instruction", "Stage", "parse", "triggers"]

"""rl: run OCI containers without root and without a daemon."""

__version__ = "0.1.0"

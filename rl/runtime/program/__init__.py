"""`rl-runtime`: the OCI runtime as a program of its own, with the command line of runc and crun."""

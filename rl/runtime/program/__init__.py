"""The program `rl-runtime`: the OCI command line of the runtime."""

"""The running process: machine, precision, determinism, memory, ranks, progress."""

"""The process and its machine: terminal, streams, signals, memory, home folder. Nothing of optbench is imported."""

"""optbench: a bench for deep-learning optimizers."""

"""Laws fitted to measurements of runs: scaling of learning rates, critical batch sizes, generalization gaps, convergence."""

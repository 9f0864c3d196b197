"""Laws fitted to what runs measured: scaling of learning rates, critical batch sizes, generalization gaps."""

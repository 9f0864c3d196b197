"""Settings of the whole test suite."""

import os

import torch

# Tests run several at a time, and more threads than cores slow each of them down many times over.
torch.set_num_threads(1)
# Parallel workers are given one, and tables are as wide as it says; tests that are about widths set their own.
os.environ.pop("COLUMNS", None)

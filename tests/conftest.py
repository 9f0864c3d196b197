"""Settings of the whole test suite."""

import torch

# Tests run several at a time, and more threads than cores slow each of them down many times over.
torch.set_num_threads(1)

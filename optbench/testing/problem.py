"""The small problems on which optimizers are certified: the words of a run, and networks of a few layers with their data."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from optbench.config.durations import BatchPlan, Horizon
from optbench.randomness import generator

# Batch norm in groups smaller than the batch, and dropout: the two layers that break the first two promises where nobody
# sees to it. Every step is clipped and averaged.
COMMON = (
    "model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", "dataset=digits", "dataset.train_limit=200",
    "dataset.validation=16", "dataset.crop=1", "batch=64", "ghost_batch_size=16", "clip_norm=1.0", "averaging=ema",
    "schedule=cosine", "budget.steps=4", "evaluate_train=64", "tracker=none", "progress=false", "log_every=1",
)  # fmt: skip
# Methods that are slow on a network of 78,000 weights take a batch and a budget that are smaller, not other promises.
_FEWER = ("batch=16", "ghost_batch_size=4", "budget.steps=3")
# The curvature of these two grows with the outputs of a batch.
_FEWEST = ("batch=8", "ghost_batch_size=2", "budget.steps=3")
# Methods whose step takes longer than this many seconds of a processor take a perceptron.
DEAR_SECONDS = 3.0
DEAR = ("model=mlp", "model.hidden=[16]", *(word for word in COMMON if not word.startswith("model")), *_FEWER)
_SMALLER = {
    # Its examples need gradients of their own, which batch norm does not leave them.
    "aras": DEAR,
    "cubic_newton": (*_FEWER, "optimizer.krylov_dimension=4"),
    "damped_newton": (*_FEWER, "optimizer.krylov_dimension=4"),
    "entropy_sgd": (*_FEWER, "optimizer.inner_steps=5"),
    "hessian_free": (*_FEWER, "optimizer.cg_iterations=5"),
    # It multiplies its factors for all dimensions of a kernel out: 11 GB for 64 x 64 x 3 x 3.
    "kron": DEAR,
    "lm": _FEWEST,
    "saddle_free": (*_FEWER, "optimizer.krylov_dimension=4"),
    "score_ggn": _FEWEST,
    "zeroth_order": ("clip_norm=null",),  # which it refuses
}
# The length of the run in which durations among an optimizer's options are counted: 100 steps of 64 of 6,400 examples.
HORIZON = Horizon(BatchPlan(64), examples=6400, steps=100)
BATCHES = 5
EXAMPLES, FEATURES, CLASSES = 12, 6, 3


def words_for(optimizer: str) -> tuple[str, ...]:
    """The words of a run that trains the optimizer with this name (`optbench.config.works_as`)."""
    smaller = _SMALLER.get(optimizer, ())
    return smaller if smaller == DEAR else (*COMMON, *smaller)


def batch(step: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The inputs (EXAMPLES, FEATURES) and the classes (EXAMPLES,) of the batch of ``step``, of which there are five."""
    draws = generator(0, "certified batch", step % BATCHES)
    inputs = torch.randn(EXAMPLES, FEATURES, dtype=torch.float64, generator=draws)
    return inputs.to(dtype), torch.randint(CLASSES, (EXAMPLES,), generator=draws)


class Perceptron(nn.Module):
    """6 - 6 - 6 - 3 with tanh: two layers are of the same shape, so that a memory may be taken for another's."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.middle = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (N, FEATURES) -> logits (N, CLASSES)."""
        outputs: Tensor = self.head(torch.tanh(self.middle(torch.tanh(self.hidden(inputs)))))
        return outputs


class Twice(nn.Module):
    """A perceptron with one hidden layer, without a bias, which is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, FEATURES, bias=False)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (N, FEATURES) -> logits (N, CLASSES)."""
        outputs: Tensor = self.head(torch.tanh(self.hidden(torch.tanh(self.hidden(inputs)))))
        return outputs


class Tied(nn.Module):
    """`Twice` as two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, FEATURES, bias=False)
        self.again = nn.Linear(FEATURES, FEATURES, bias=False)
        self.head = nn.Linear(FEATURES, CLASSES)
        self.again.weight = self.hidden.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (N, FEATURES) -> logits (N, CLASSES)."""
        outputs: Tensor = self.head(torch.tanh(self.again(torch.tanh(self.hidden(inputs)))))
        return outputs


class _Bare(nn.Module):
    """A weight without a layer around it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(FEATURES, FEATURES))


class ByHand(nn.Module):
    """`Twice` whose weight is no layer's: both uses are products that are written out."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = _Bare()
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (N, FEATURES) -> logits (N, CLASSES)."""
        weight = self.hidden.weight
        outputs: Tensor = self.head(torch.tanh(torch.tanh(inputs @ weight.T) @ weight.T))
        return outputs


class Unused(Perceptron):
    """A perceptron with a layer that no pass goes through, whose gradient is None; it is not the last one, which is the head."""

    def __init__(self) -> None:
        super().__init__()
        head = self.head
        del self.head
        self.idle, self.head = nn.Linear(FEATURES, FEATURES), head


class Wide(nn.Module):
    """64 - 256 - 10 with ReLU, on which costs are measured."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 256), nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (N, 64) -> logits (N, 10)."""
        outputs: Tensor = self.head(torch.relu(self.hidden(inputs)))
        return outputs


def network(make: Callable[[], nn.Module] = Perceptron, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network with the same initial weights whenever it is made: by name, so that layers of two networks agree."""
    model = make()
    for name, parameter in model.named_parameters():
        draws = generator(0, f"certified weight {name}")
        values = torch.randn(parameter.shape, dtype=torch.float64, generator=draws)
        with torch.no_grad():
            parameter.copy_(values / parameter.shape[-1] ** 0.5)
    return model.to(dtype)

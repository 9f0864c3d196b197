"""Small problems for second-order methods, and the training loop of the scripts beside this file.

All of them are trained on the whole training set at every step, in float64. An instance is drawn by its seed: options are chosen
on seeds from `TUNING_SEED` on, and results are reported on seeds from 0 on.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optbench import optimizers
from optbench.config import Choice, tuning
from optbench.config.yaml_text import read_yaml
from optbench.data import digits, idx
from optbench.objective import Network, Objective
from optbench.objective.losses import Bernoulli, CrossEntropy, Loss, SquaredError

CONF = Path(__file__).parents[2] / "conf" / "optimizer"
TUNING_SEED = 1000
Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """A model at its start, and the data to fit.

    regularizer: a function of the parameters that every method minimizes together with the loss, None for none.
    validation: examples of the same kind that are not used for training, None for none.
    """

    model: nn.Module
    loss: Loss
    inputs: Tensor
    targets: Tensor
    validation: tuple[Tensor, Tensor] | None = None
    regularizer: Callable[[list[Tensor]], Tensor] | None = None

    def total(self) -> float:
        """The loss on the training set, with the regularizer."""
        with torch.no_grad():
            value = self.loss(self.model(self.inputs), self.targets)
            if self.regularizer is not None:
                value = value + self.regularizer(list(self.model.parameters()))
        return float(value)

    def validation_loss(self) -> float:
        """The loss on the validation examples."""
        assert self.validation is not None
        with torch.no_grad():
            return float(self.loss(self.model(self.validation[0]), self.validation[1]))


class RegularizedObjective(Objective):
    """The objective of a problem with its regularizer, for methods that do not support one: only values and gradients."""

    regularizer: Callable[[list[Tensor]], Tensor]

    def __call__(self) -> Tensor:
        """The regularized loss; fills the gradients."""
        value = super().__call__()
        penalty = self.regularizer(list(self.network.parameters))
        penalty.backward()
        return value + penalty.detach()


# ---- the problems -----------------------------------------------------------------------------------------------------------


def small_images(seed: int, data_dir: str = "data") -> Problem:
    """200 images of Fashion-MNIST, averaged to 4 x 4 pixels, and 16-5-10 sigmoid units (145 parameters) near a saddle.

    All weights and biases are drawn from 0.01 N(0, 1). At 0 all hidden units are equal, and the gradient is zero except for
    the biases of the outputs.
    """
    raw = idx.fashion_mnist(data_dir, train_limit=200)
    images = F.avg_pool2d(raw.train.inputs.double() / 255, 7).flatten(1)
    images = (images - images.mean()) / images.std()
    model = nn.Sequential(nn.Linear(16, 5), nn.Sigmoid(), nn.Linear(5, 10)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return Problem(model, CrossEntropy(), images, raw.train.targets)


def sine(seed: int) -> Problem:
    """y = sin x + 0.2 u, u uniform on [0, 1), at 1,000 points x on [-10, 10], and a network 1-10-1 of ELUs (31 parameters).

    Pooladzandi & Zhou 2022 (arXiv 2212.08769). The noise has the variance 0.04 / 12. The validation set has the same x and
    separate noise.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-10, 10, 1000, dtype=torch.float64).unsqueeze(1)

    def noisy() -> Tensor:
        return x.sin() + 0.2 * torch.rand(x.shape, generator=generator, dtype=torch.float64)

    targets, validation = noisy(), noisy()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(1, 10), nn.ELU(), nn.Linear(10, 1)).double()
    return Problem(model, SquaredError(), x, targets, (x, validation))


def pseudo_huber(weight: float, scale: float) -> Callable[[list[Tensor]], Tensor]:
    """``weight`` times the sum over parameters w of sqrt(scale^2 + w^2) - scale."""

    def penalty(parameters: list[Tensor]) -> Tensor:
        return weight * torch.stack([((scale**2 + p.square()).sqrt() - scale).sum() for p in parameters]).sum()

    return penalty


def ill_conditioned(seed: int, weight: float = 1e-3, scale: float = 1.0) -> Problem:
    """Logistic regression on 200 points in 50 dimensions whose standard deviations fall from 1 to 1e-3 evenly in logarithm.

    Labels are drawn from a logistic model with random weights that give all dimensions equal influence. The pseudo-Huber
    regularizer has the given weight and scale; the start is 0.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(200, 50, generator=generator, dtype=torch.float64)
    teacher = torch.randn(50, generator=generator, dtype=torch.float64)
    chances = torch.sigmoid(points @ teacher)
    labels = (torch.rand(200, generator=generator, dtype=torch.float64) < chances).double().unsqueeze(1)
    inputs = points * torch.logspace(0, -3, 50, dtype=torch.float64)
    return Problem(_linear(50, 1), Bernoulli(), inputs, labels, regularizer=pseudo_huber(weight, scale))


def few_digits(seed: int, weight: float = 1e-3, scale: float = 1.0) -> Problem:
    """Multinomial logistic regression (650 parameters) on 300 images of digits, drawn by the seed, with raw pixels in [0, 1].

    Some pixels are black in nearly all images. Regularizer and start as in ``ill_conditioned``.
    """
    raw = digits.load("nowhere")
    chosen = torch.randperm(len(raw.train), generator=torch.Generator().manual_seed(seed))[:300]
    images = raw.train.inputs[chosen].double().flatten(1) / 255
    return Problem(
        _linear(64, 10), CrossEntropy(), images, raw.train.targets[chosen], regularizer=pseudo_huber(weight, scale)
    )


def _linear(inputs: int, outputs: int) -> nn.Module:
    model = nn.Linear(inputs, outputs).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


# ---- training on them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """An optimizer of the bench with fixed options, and the names of the options (in its YAML) that trials choose."""

    name: str
    optimizer: str
    steps: int
    fixed: Mapping[str, Any]
    tuned: tuple[str, ...]

    def options(self, trial: int) -> dict[str, Any]:
        """The options that trial number ``trial`` chooses; trial 0 is the defaults."""
        space = self.choice()["info"]["search_space"]
        return dict(tuning.trial_options({name: space[name] for name in self.tuned}, trial))

    def choice(self) -> dict[str, Any]:
        """The optimizer's YAML."""
        choice: dict[str, Any] = read_yaml((CONF / f"{self.optimizer}.yaml").read_text())
        return choice


def train(
    method: Method,
    problem: Problem,
    seed: int,
    options: Mapping[str, Any],
    measure: Callable[[int], Row] = lambda step: {},
) -> list[Row]:
    """Train the model of ``problem`` in place; a row for each step, from 0, with step, seconds, evaluations and total.

    evaluations counts calls of the closure, each a value with its gradient. The result of ``measure`` is added to the row of a
    step; its time does not count. A total that is not finite ends the training.
    """
    choice = method.choice() | dict(method.fixed) | dict(options)
    optimizer = optimizers.build(Choice.of("optimizer", choice), problem.model, choice["learning_rate"], seed)
    network = Network(problem.model)
    seconds, evaluations = 0.0, 0
    rows: list[Row] = []
    for step in range(method.steps + 1):
        if step:
            since = time.perf_counter()
            objective = _objective(method, problem, network)
            optimizer.step(objective)  # type: ignore[arg-type]  # a closure may return a tensor
            seconds += time.perf_counter() - since
            evaluations += objective.evaluations
        total = problem.total()
        row = {"step": step, "seconds": seconds, "evaluations": evaluations, "total": total}
        rows.append(row | measure(step))
        if not total < float("inf"):
            break
    return rows


def _objective(method: Method, problem: Problem, network: Network) -> Objective:
    if problem.regularizer is None or method.optimizer == "score_ggn":  # score_ggn has the regularizer itself
        return Objective(network, problem.loss, problem.inputs, problem.targets)
    objective = RegularizedObjective(network, problem.loss, problem.inputs, problem.targets)
    objective.regularizer = problem.regularizer
    return objective


def best_trial(
    method: Method,
    make: Callable[[int], Problem],
    trials: int,
    score: Callable[[Problem, list[Row]], float],
    seeds: int = 3,
) -> int:
    """The trial with the lowest median of ``score`` over ``seeds`` problems that are not reported.

    ``score`` takes the problem after training and the rows of the training; NaN counts as infinite.
    """
    scores = []
    for trial in range(trials):
        finals = []
        for seed in range(TUNING_SEED, TUNING_SEED + seeds):
            problem = make(seed)
            final = score(problem, train(method, problem, seed, method.options(trial)))
            finals.append(final if final == final else float("inf"))
        scores.append(median(finals))
    return scores.index(min(scores))

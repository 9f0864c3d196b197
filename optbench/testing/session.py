"""A few steps of an optimizer on a small network, with everything that a check may want to look at or to change."""

import io
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.testing import problem
from optbench.testing.outcomes import Broken, nudge
from optbench.testing.subject import Arrange, Subject


class _Watched(Objective):
    """An objective that tells of its calls."""

    after: Callable[[], object]

    def __call__(self) -> Tensor:
        value = super().__call__()
        self.after()
        return value


class Steps:
    """Steps of the optimizer that ``make`` builds for ``model``, before the first of them.

    torch's generator is seeded, as it is in a run, so that two objects one after the other draw the same.
    """

    def __init__(self, model: nn.Module, make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        torch.manual_seed(0)
        self.model, self.dtype, self.taken = model, next(model.parameters()).dtype, 0
        self.network = Network(model)
        self.optimizer = make(model)

    def step(self, count: int = 1, after: Callable[[], object] = lambda: None) -> Self:
        """Take ``count`` steps; ``after`` is called whenever the closure has filled the gradients. Returns itself."""
        device = next(self.model.parameters()).device
        for _ in range(count):
            inputs, targets = problem.batch(self.taken, self.dtype)
            objective = _Watched(self.network, CrossEntropy(), inputs.to(device), targets.to(device))
            objective.after = after
            self.optimizer.step(objective)  # type: ignore[arg-type]  # a closure may return a tensor, as torch's own do
            objective.finish()
            self.taken += 1
        return self

    def step_with(self, gradients: dict[str, Tensor], calls: list[int] | None = None) -> None:
        """Take a step whose gradients are those given by name, wherever the weights are; ``calls`` gets one entry a call."""

        def closure() -> Tensor:
            if calls is not None:
                calls.append(self.taken)
            for name, parameter in self.model.named_parameters():
                parameter.grad = gradients[name].clone() if name in gradients else None
            return torch.ones((), dtype=self.dtype)

        self.optimizer.step(closure)  # type: ignore[arg-type]
        self.taken += 1

    def weights(self) -> dict[str, Tensor]:
        """A copy of all weights by name."""
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def freeze(self, *names: str) -> None:
        """Let these weights have no gradient from now on."""
        for name, weight in self.model.named_parameters():
            if name in names:
                weight.requires_grad_(False)
                weight.grad = None
        self.network = Network(self.model)

    def gradients(self) -> dict[str, Tensor]:
        """A copy of the gradients by the names of their weights, of those that have one."""
        return {name: each.grad.clone() for name, each in self.model.named_parameters() if each.grad is not None}

    def move_to(self, weights: dict[str, Tensor]) -> None:
        """Give the weights these values."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])

    def set(self, **options: Any) -> None:
        """Change options of all parameter groups, as schedules do."""
        for group in self.optimizer.param_groups:
            group.update(options)

    def scale_rate(self, factor: float) -> None:
        """Multiply the learning rate of every group."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * factor

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, as it is read back from a file."""
        return through_a_file(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": torch.get_rng_state(),
                "taken": self.taken,
            }
        )

    def load(self, state: dict[str, Any]) -> Self:
        """Continue from ``state``; returns itself."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        self.taken = state["taken"]
        return self


class Session(Steps):
    """An optimizer of ``subject`` on a network of `optbench.testing.problem`, before its first step.

    make_model: which network. dtype, device: of its weights. arrange, lr, options: as in `Subject.make`. nudged: start from
    weights that are one unit in the last place larger.
    """

    def __init__(
        self,
        subject: Subject,
        make_model: Callable[[], nn.Module] = problem.Perceptron,
        dtype: torch.dtype = torch.float64,
        arrange: Arrange | None = None,
        lr: float | None = None,
        device: torch.device | None = None,
        nudged: bool = False,
        **options: Any,
    ) -> None:
        model = problem.network(make_model, dtype).to(device)
        if nudged:
            nudge(list(model.parameters()))
        super().__init__(model, lambda model: subject.make(model, arrange, lr, **options))


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """``state`` as a checkpoint returns it: nothing of it is shared, and reading it runs no code.

    Raises `Broken` for what cannot be written and read so.
    """
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        found: dict[str, Any] = torch.load(buffer, weights_only=True)
    except Exception as error:  # whatever pickle makes of a foreign object
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Broken(f"its state cannot be written and read back without running code: {first}") from error
    return found


def tensors_of(state: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested state, with the path to it."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, dict):
        for name, value in state.items():
            yield from tensors_of(value, f"{path}.{name}" if path else str(name))
    elif isinstance(state, list | tuple):
        for number, value in enumerate(state):
            yield from tensors_of(value, f"{path}.{number}")


def state_of(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The tensors in the state of every parameter: (name in the state, the tensor, the parameter)."""
    for parameter, state in optimizer.state.items():
        for name, tensor in tensors_of(state):
            yield name, tensor, parameter


def needs_objective(subject: Subject) -> bool:
    """Whether it takes no step with a plain closure: it asks the closure for more than a loss and its gradient."""
    session = Session(subject)
    try:
        session.step_with({name: torch.ones_like(weight) for name, weight in session.weights().items()})
    except Exception:  # whatever a method raises that misses something
        return True
    return False

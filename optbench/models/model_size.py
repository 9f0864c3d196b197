"""Check the size of a model before it is built, on torch's meta device, which allocates no memory."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registration

from optbench.config.run_config import Choice
from optbench.errors import UserError
from optbench.system import memory

# More parameters and submodules than any network has; building so many takes minutes, and a step takes hours.
MOST_PARTS = 20_000
# Every training needs weights and gradients.
_COPIES = 2


class _TooLarge(Exception):
    """Raised to stop the construction of a model that is known to be too large."""


def check(build: Callable[[], nn.Module], what: str, where: torch.device, copies: float = 0) -> None:
    """Raise UserError if the model that ``build`` makes cannot fit on the device ``where``.

    It counts the bytes of weights, gradients and ``copies`` more tensors of their size, such as the optimizer's state; fewer than
    0 where ranks divide them.
    Counting stops when they exceed the memory, so that it takes at most seconds. A model that cannot be built on the meta
    device is not checked.
    """
    there, place = _memory_of(where)
    bytes_ = parts = 0

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal bytes_, parts
        parts += 1
        if isinstance(value, nn.Parameter):
            bytes_ += value.numel() * value.element_size()
        if parts > MOST_PARTS or (there is not None and bytes_ * (_COPIES + copies) > there):
            raise _TooLarge

    hooks = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_module_registration_hook(count),
    ]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build()
    except _TooLarge:
        if parts > MOST_PARTS:
            raise UserError(
                f"{what}: has more than {MOST_PARTS:,} layers and parameters (so far {memory.in_words(bytes_)} of weights); "
                "accepted: something smaller"
            ) from None
        needed = int(bytes_ * (_COPIES + copies))
        use = " for weights, gradients and the optimizer's state" if copies > 0 else " for weights and gradients"
        memory.require(needed, what, there, place, use)
    except UserError:
        raise
    except (MemoryError, OverflowError) as error:
        raise UserError(
            f"{what}: sizes that no memory holds ({_in_a_line(error)}); accepted: something smaller"
        ) from error
    except Exception as error:
        # torch has no exception type for sizes that do not fit into 64 bits.
        if any(word in str(error) for word in ("verflow", "torage size", "nvalid size", "too large", "allocate")):
            raise UserError(
                f"{what}: sizes that no memory holds ({_in_a_line(error)}); accepted: something smaller"
            ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _in_a_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _memory_of(device: torch.device) -> tuple[int | None, str]:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory), "the GPU"
    return memory.of_this_machine(), "this machine"


def state_copies(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> int:
    """The number of tensors of a parameter's size that the optimizer keeps for it, found on a toy model; 0 if unknown."""
    toy = nn.Linear(8, 8, bias=False)
    try:
        with torch.random.fork_rng(devices=[]):
            optimizer = make_optimizer(toy)
            (parameter,) = toy.parameters()
            parameter.grad = torch.ones_like(parameter)
            optimizer.step(lambda: 0.0)
        state = optimizer.state.get(parameter, {})
    except Exception:  # the method needs an objective, or a whole network
        return 0
    return sum(value.numel() == parameter.numel() for value in state.values() if isinstance(value, torch.Tensor))


def without_values(model: nn.Module) -> nn.Module:
    """A copy of ``model`` on the meta device, for which nothing is allocated."""
    replaced: dict[int, Any] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        shape = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        replaced[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if is_parameter else shape
    return copy.deepcopy(model, replaced)


def described(choice: Choice) -> str:
    """A choice of a model and its numeric options, as words of the command line."""
    sizes = [
        f"{name}={value}".replace(" ", "")
        for name, value in choice.options.items()
        if (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, list) and value and all(isinstance(item, int) for item in value))
    ]
    shown = ", ".join(f"model.{size}"[:100] for size in sizes)
    return f"model={choice.name}" + (f" with {shown}" if shown else "")

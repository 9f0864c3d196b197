"""The recurrent modules of torch, computed step by step, so that inputs and outputs of their matrices can be observed."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optbench.errors import UserError
from optbench.optimizers.kronecker.layers import recurrent_suffixes

# Called with the parameters' name ("ih_l0", "hh_l0", ...), the inputs of that matrix at all steps, and a tensor of zeros
# that was added to its outputs, both (examples, steps, .).
See = Callable[[str, Tensor, Tensor], None]


def unrolled(module: nn.RNNBase, see: See) -> Callable[..., tuple[Tensor, Any]]:
    """A forward pass equal to that of nn.RNN, nn.LSTM or nn.GRU, which calls ``see`` for each of its matrices.

    The fused kernels do not expose the derivatives in the inputs of the gates. Here zeros are added to these inputs, so that
    the derivative in the zeros is the desired one.
    """

    def forward(inputs: Tensor, initial: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(inputs, Tensor) or inputs.ndim != 3:
            raise UserError(f"{type(module).__name__}: Kronecker factors need inputs (examples, steps, features)")
        has_cell = isinstance(module, nn.LSTM)
        states = inputs if module.batch_first else inputs.transpose(0, 1)
        suffixes = recurrent_suffixes(module)
        if initial is None:
            zeros = states.new_zeros(len(suffixes), len(states), module.hidden_size)
            hidden, cells = zeros, zeros
        else:
            hidden, cells = initial if has_cell else (initial, initial)
        last: list[tuple[Tensor, Tensor]] = []
        for _layer in range(module.num_layers):
            outputs = []
            for _direction in range(2 if module.bidirectional else 1):
                index = len(last)
                suffix = suffixes[index]
                steps = states.flip(1) if suffix.endswith("_reverse") else states
                found, end = _run(module, suffix, steps, hidden[index], cells[index], see)
                outputs.append(found.flip(1) if suffix.endswith("_reverse") else found)
                last.append(end)
            states = torch.cat(outputs, dim=2)
        ends = torch.stack([end[0] for end in last]), torch.stack([end[1] for end in last])
        return states if module.batch_first else states.transpose(0, 1), ends if has_cell else ends[0]

    return forward


def _run(
    module: nn.RNNBase, suffix: str, steps: Tensor, hidden: Tensor, cell: Tensor, see: See
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One layer in one direction: its hidden states at all steps, and the last hidden and cell state."""

    def parameters(part: str) -> tuple[Tensor, Tensor | None]:
        return getattr(module, f"weight_{part}_{suffix}"), getattr(module, f"bias_{part}_{suffix}", None)

    weight, bias = parameters("hh")
    from_inputs = F.linear(steps, *parameters("ih"))
    added_to_inputs = torch.zeros_like(from_inputs, requires_grad=True)
    added_to_hidden = torch.zeros_like(from_inputs, requires_grad=True)
    states = [hidden]
    for outside, added in zip((from_inputs + added_to_inputs).unbind(1), added_to_hidden.unbind(1), strict=True):
        inside = F.linear(hidden, weight, bias) + added
        hidden, cell = _cell(module, outside, inside, hidden, cell)
        states.append(hidden)
    see(f"ih_{suffix}", steps, added_to_inputs)
    see(f"hh_{suffix}", torch.stack(states[:-1], dim=1), added_to_hidden)
    return torch.stack(states[1:], dim=1), (hidden, cell)


def _cell(module: nn.RNNBase, outside: Tensor, inside: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The next hidden and cell state, by the equations in the documentation of torch.nn.RNN, LSTM and GRU."""
    if isinstance(module, nn.LSTM):
        enter, forget, candidate, leave = (outside + inside).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
        return torch.sigmoid(leave) * torch.tanh(cell), cell
    if isinstance(module, nn.GRU):
        (reset, update, new), (reset_inside, update_inside, new_inside) = (
            outside.chunk(3, dim=1),
            inside.chunk(3, dim=1),
        )
        kept = torch.sigmoid(update + update_inside)
        candidate = torch.tanh(new + torch.sigmoid(reset + reset_inside) * new_inside)
        return (1 - kept) * candidate + kept * hidden, cell
    assert isinstance(module, nn.RNN)
    total = outside + inside
    return torch.relu(total) if module.nonlinearity == "relu" else torch.tanh(total), cell

"""Random directions with the scale of the parameters: filter normalization and its alternatives.

A ReLU network computes the same function if one layer is multiplied by c and the next one divided by c, but a random direction
of fixed length changes the two versions by different amounts. A direction that is scaled filter by filter to the lengths of the
network's own filters changes both equally, so that loss surfaces of different networks can be compared (Li, Xu, Taylor, Studer
& Goldstein 2018, "Visualizing the loss landscape of neural nets", section 4).
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from optbench.errors import UserError

Normalization: TypeAlias = Literal["filter", "layer", "weight", "dfilter", "dlayer"]
OneDimensional: TypeAlias = Literal["zero", "copy"]

# Added to the divisor, as in the authors' code, so that the direction of a zero filter becomes about 0.
EMPTY = 1e-10

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def transposed_groups(model: nn.Module) -> list[int]:
    """For each of ``model.parameters()``: the groups of the transposed convolution whose weight it is, else 0.

    The first axis of the weight of a transposed convolution is the input channels, (in, out / groups, *kernel); that of any
    other weight is the outputs of the layer, or the rows of an embedding.
    """
    groups = {id(module.weight): module.groups for module in model.modules() if isinstance(module, _TRANSPOSED)}
    return [groups.get(id(parameter), 0) for parameter in model.parameters()]


def filter_norms(tensor: Tensor, groups: int = 0) -> Tensor:
    """The Euclidean norm of the filter of each entry of ``tensor`` (two or more axes), in the shape of ``tensor``.

    A filter is a slice along the first axis: an output channel of a convolution, the incoming weights of a neuron, a row
    of an embedding. ``groups``: see ``transposed_groups``. Norms are taken in float64 and returned in the tensor's type.
    """
    # (groups, inputs of a group, filters of a group, entries of a kernel): a filter is all of axes 1 and 3.
    shape = (groups, tensor.shape[0] // groups, tensor.shape[1], -1) if groups else (1, 1, tensor.shape[0], -1)
    blocks = tensor.detach().reshape(shape)
    norms = torch.linalg.vector_norm(blocks, dim=(1, 3), keepdim=True, dtype=torch.float64)
    found: Tensor = norms.to(tensor.dtype).expand(blocks.shape).reshape(tensor.shape)
    return found


def _tensor_norm(tensor: Tensor, _: int) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64).to(tensor.dtype)
    return found


def _scaled_to(norms: Callable[[Tensor, int], Tensor], direction: Tensor, parameter: Tensor, groups: int) -> Tensor:
    return direction * (norms(parameter, groups) / (norms(direction, groups) + EMPTY))


def _unit(norms: Callable[[Tensor, int], Tensor], direction: Tensor, groups: int) -> Tensor:
    return direction / (norms(direction, groups) + EMPTY)


def normalize(
    direction: Sequence[Tensor],
    parameters: Sequence[Tensor],
    how: Normalization = "filter",
    one_dimensional: OneDimensional = "zero",
    transposed: Sequence[int] | None = None,
) -> list[Tensor]:
    """A ``direction`` d, one tensor for each of the ``parameters`` w, scaled as in the authors' code.

    how, for tensors with more than one axis:

        filter    each filter of d to the norm of the same filter of w: d_f ||w_f|| / (||d_f|| + 1e-10)
        layer     each tensor of d to the norm of w
        weight    each entry multiplied by w
        dfilter   each filter of d to norm 1
        dlayer    each tensor of d to norm 1

    one_dimensional: the treatment of biases, parameters of batch norm and other tensors with at most one axis: ``zero``, which
    all published surfaces use and which makes them invariant under the rescaling of ReLU layers, or ``copy`` of w.
    transposed: ``transposed_groups(model)``; None if the model has no transposed convolutions. Raises UserError for other
    names.
    """
    if how not in get_args(Normalization):
        raise UserError(f"normalization={how}: accepted are {', '.join(get_args(Normalization))}")
    if one_dimensional not in get_args(OneDimensional):
        raise UserError(f"one_dimensional={one_dimensional}: accepted are {', '.join(get_args(OneDimensional))}")
    ways: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
        "filter": lambda d, w, groups: _scaled_to(filter_norms, d, w, groups),
        "layer": lambda d, w, groups: _scaled_to(_tensor_norm, d, w, groups),
        "weight": lambda d, w, groups: d * w,
        "dfilter": lambda d, w, groups: _unit(filter_norms, d, groups),
        "dlayer": lambda d, w, groups: _unit(_tensor_norm, d, groups),
    }
    normalized = []
    for d, parameter, groups in zip(direction, parameters, transposed or [0] * len(parameters), strict=True):
        w = parameter.detach()
        if w.ndim > 1:
            normalized.append(ways[how](d, w, groups))
        else:
            normalized.append(torch.zeros_like(w) if one_dimensional == "zero" else w.clone())
    return normalized

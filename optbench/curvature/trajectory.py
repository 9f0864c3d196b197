"""The plane in which a training run moved most: principal components of its saved parameters.

Li, Xu, Taylor, Studer & Goldstein 2018, "Visualizing the loss landscape of neural nets", section 7: two random directions
are almost orthogonal to the path and show no variation along it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.objective.vectors import flatten, unflatten

# The number of columns that are converted to float64 at a time.
CHUNK = 1 << 18


@dataclass(frozen=True)
class PrincipalPlane:
    """The result of ``principal_components``, for n saved states and k components.

    directions: k lists of tensors in the shapes of the parameters, orthonormal. explained: (k,), the share of the variance
    along each. coordinates: (n, k), of theta_i - theta_n along the directions, so that the last state is at 0. Both are
    float64 on the CPU.
    """

    directions: list[list[Tensor]]
    explained: Tensor
    coordinates: Tensor


@torch.no_grad()
def principal_components(
    states: Sequence[Sequence[Tensor]], components: int = 2, centred: bool = True, weights_only: bool = False
) -> PrincipalPlane:
    """Principal components of the rows theta_i - theta_n, for the saved ``states`` theta_1 .. theta_n of one run.

    centred: subtract the mean of the rows first, as the authors' code does through scikit-learn; their formula does not.
    weights_only: tensors with at most one axis count as if they had never moved. A path with fewer dimensions than
    ``components`` has fewer components. Gram matrix and components are computed in float64; directions have the parameters'
    type. Memory: another copy of the states, as one (n, P) matrix. Raises ValueError for fewer than two states, and if no
    parameter moved.
    """
    if len(states) < 2 or components < 1:
        raise ValueError(f"{components} components of {len(states)} states: at least one of at least two are needed")
    like = [tensor.detach() for tensor in states[-1]]
    rows = torch.stack([flatten(_differences(state, like, weights_only)) for state in states])
    # An n x n matrix in place of a singular value decomposition of n x P numbers.
    mean = rows.mean(0, dtype=torch.float64) if centred else rows.new_zeros(rows.shape[1], dtype=torch.float64)
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block, centre in zip(rows.split(CHUNK, 1), mean.split(CHUNK), strict=True):
        gram += (block.double() - centre) @ (block.double() - centre).T
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if not values[0] > 0:
        raise ValueError("the principal components of a path on which no parameter moved")
    # These are squares of lengths: below this share, a component is rounding error of the Gram matrix.
    rank = int((values > len(rows) * torch.finfo(torch.float64).eps * values[0]).sum())
    count = min(components, rank)
    to_rows = vectors[:, :count] / values[:count].sqrt()
    directions = torch.empty(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
    coordinates = torch.zeros(len(rows), count, dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        block = rows[:, part].double()
        along = to_rows.T @ (block - mean[part])
        directions[:, part] = along.to(rows.dtype)
        coordinates += block @ along.T
    return PrincipalPlane(
        [unflatten(direction, like) for direction in directions],
        (values[:count] / values.sum()).cpu(),
        coordinates.cpu(),
    )


def _differences(state: Sequence[Tensor], last: Sequence[Tensor], weights_only: bool) -> list[Tensor]:
    return [
        torch.zeros_like(final) if weights_only and final.ndim <= 1 else tensor.detach() - final
        for tensor, final in zip(state, last, strict=True)
    ]

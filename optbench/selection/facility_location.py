"""Facility location: the examples that together lie closest to all others, chosen greedily, and how many each stands for.

For points u_1, ..., u_n and a chosen set S, the similarity of two points is s_ij = c - |u_i - u_j| with c the largest distance
between two points, so that it is never negative, and the value of S is

    F(S) = sum_i max_(j in S) s_ij,    F(empty) = 0.

F is monotone and submodular: the greedy algorithm, which adds the point of the largest gain F(S + j) - F(S) each time, reaches at
least 1 - 1/e of the best value of its size (Nemhauser, Wolsey & Fisher 1978). Gains only fall as S grows, so that an old gain
bounds the present one, and the lazy algorithm evaluates only points whose bound is the largest (Minoux 1978).
"""

import heapq
from typing import NamedTuple

import torch
from torch import Tensor

# Distances that are held at a time, as float64: 64 MiB.
_AT_ONCE = 2**23
# Points that the lazy algorithm evaluates together.
_TOGETHER = 8
# Gains that differ by less than this part of the largest sum of distances to a point are ties: rounding alone separates them.
_TIE = 1e-12


class Subset(NamedTuple):
    """The chosen points in the order in which they were chosen, (k,), and how many points each stands for, (k,), both int64.

    distance: the sum over all points of the distance to the nearest chosen one.
    """

    indices: Tensor
    sizes: Tensor
    distance: float


def facility_location(points: Tensor, count: int) -> Subset:
    """The ``count`` points of ``points`` (n, d) that the greedy algorithm chooses, with Euclidean distances in float64.

    Of tied points the one with the lowest index is chosen, and a point that is equally near to two chosen ones counts for the one
    that was chosen first. c is not computed, as it changes no choice: it adds n c to every gain of the first point, and nothing
    to later ones. Beside the points a few vectors of n numbers and a block of distances are held. Raises ValueError unless
    1 <= count <= n, and for points that are not finite.
    """
    points = points.detach().to("cpu", torch.float64).contiguous()
    n = len(points)
    if not 1 <= count <= n:
        raise ValueError(f"count={count}: must be in [1, {n}], the number of points")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points: not all finite")
    if count == n:
        return Subset(torch.arange(n), torch.ones(n, dtype=torch.int64), 0.0)
    block = max(1, min(_AT_ONCE // n, n))
    # Sums of all distances to a point: with S empty, the gain of j is n c - sum_i d_ij.
    totals = torch.cat([_distances(points, points[start : start + block]).sum(0) for start in range(0, n, block)])
    tie = _TIE * float(totals.max())
    first = _lowest((-totals).tolist(), list(range(n)), tie)
    nearest = _distances(points, points[first : first + 1])[:, 0]
    owner = torch.zeros(n, dtype=torch.int64)
    chosen = [first]
    heap: list[tuple[float, int]] = []
    if count > 1:
        # The first gains beside one chosen point, all exact: bounds from the empty set would all be evaluated anyway.
        gains = torch.cat([_gains(points, nearest, start, min(start + block, n)) for start in range(0, n, block)])
        heap = [(-gain, j) for j, gain in enumerate(gains.tolist()) if j != first]
        heapq.heapify(heap)
    while len(chosen) < count:
        best, distances = _next(points, nearest, heap, tie)
        closer = distances < nearest
        owner[closer] = len(chosen)
        nearest = torch.where(closer, distances, nearest)
        # A duplicate of a chosen point stands at least for itself.
        owner[best] = len(chosen)
        chosen.append(best)
    sizes = torch.bincount(owner, minlength=len(chosen))
    return Subset(torch.tensor(chosen), sizes, float(nearest.sum()))


def _next(points: Tensor, nearest: Tensor, heap: list[tuple[float, int]], tie: float) -> tuple[int, Tensor]:
    """The point of the largest gain, which leaves ``heap``, and the distances of all points to it.

    heap: bounds of the gains, negative, with their points. All whose bound reaches the largest gain are evaluated.
    """
    known: list[tuple[float, int]] = []
    highest = -1.0
    while heap and -heap[0][0] >= highest - tie:
        asked = [heapq.heappop(heap)[1] for _ in range(min(_TOGETHER, len(heap)))]
        gains = (nearest[:, None] - _distances(points, points[asked])).clamp_(min=0).sum(0).tolist()
        known += zip(gains, asked, strict=True)
        highest = max(highest, *gains)
    best = min(j for gain, j in known if gain >= highest - tie)
    for gain, j in known:
        if j != best:
            heapq.heappush(heap, (-gain, j))
    return best, _distances(points, points[best : best + 1])[:, 0]


def _distances(points: Tensor, others: Tensor) -> Tensor:
    """|u_i - v_j| from differences, (n, m): 0 for duplicates, unlike by products of matrices."""
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def _gains(points: Tensor, nearest: Tensor, start: int, stop: int) -> Tensor:
    return (nearest[:, None] - _distances(points, points[start:stop])).clamp_(min=0).sum(0)


def _lowest(values: list[float], indices: list[int], tie: float) -> int:
    """The lowest of ``indices`` whose value reaches the largest of ``values``."""
    highest = max(values)
    return min(index for value, index in zip(values, indices, strict=True) if value >= highest - tie)

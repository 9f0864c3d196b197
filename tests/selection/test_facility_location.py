"""Facility location: golden choices, duplicates, and plain greedy and exhaustive search over the whole matrix of distances."""

import itertools

import pytest
import torch

from optbench.selection import facility_location as module
from optbench.selection.facility_location import facility_location


def greedy(points, count):
    """The plain greedy algorithm on all similarities c - |u_i - u_j|, in Python."""
    distances = (points[:, None] - points[None]).square().sum(2).sqrt()
    similarity = distances.max() - distances
    chosen: list[int] = []
    for _ in range(count):
        values = [
            -1.0 if j in chosen else float(similarity[:, [*chosen, j]].max(1).values.sum()) for j in range(len(points))
        ]
        chosen.append(max(range(len(points)), key=lambda j: (values[j], -j)))
    return chosen, float(similarity[:, chosen].max(1).values.sum()), similarity


@pytest.mark.parametrize(
    ("count", "indices", "sizes", "distance"),
    [(1, [2], [5], 20.0), (2, [2, 3], [3, 2], 4.0), (3, [2, 3, 0], [2, 2, 1], 2.0)],
)
def test_points_on_a_line(count, indices, sizes, distance):
    points = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0])[:, None]
    found = facility_location(points, count)
    assert found.indices.tolist() == indices
    assert found.sizes.tolist() == sizes
    assert found.distance == distance


def test_copies_are_one_point_of_their_number():
    copies = torch.repeat_interleave(
        torch.tensor([[0.0, 0.1], [3.0, 0.2], [0.3, 7.0], [5.0, 5.0]]), torch.tensor([3, 1, 5, 2]), 0
    )
    found = facility_location(copies[torch.tensor([10, 3, 7, 0, 4, 9, 1, 5, 2, 8, 6])], 4)
    assert sorted(found.sizes.tolist()) == [1, 2, 3, 5]
    assert found.distance == 0


def test_the_lazy_algorithm_is_the_greedy_one(monkeypatch):
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, _, _ = greedy(points, 25)
    assert facility_location(points, 25).indices.tolist() == expected
    # In blocks of one point, which larger sets need.
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    assert facility_location(points, 25).indices.tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_at_least_one_minus_one_over_e_of_the_optimum(seed):
    points = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chosen = facility_location(points, 3).indices.tolist()
    _, value, similarity = greedy(points, 3)
    assert float(similarity[:, chosen].max(1).values.sum()) == pytest.approx(value, rel=1e-12)
    best = max(float(similarity[:, list(s)].max(1).values.sum()) for s in itertools.combinations(range(12), 3))
    assert (1 - 1 / 2.718281828) * best <= value <= best


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_error_of_a_sum_is_within_the_bound(count):
    points = torch.randn(80, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = facility_location(points, count)
    error = points.sum(0) - (found.sizes[:, None] * points[found.indices]).sum(0)
    nearest = (points[:, None] - points[found.indices]).square().sum(2).sqrt().min(1).values
    assert found.distance == pytest.approx(float(nearest.sum()), rel=1e-9)
    assert float(error.norm()) <= found.distance
    assert int(found.sizes.sum()) == 80


def test_all_points_count_once():
    points = torch.tensor([[1.0], [1.0], [4.0]])
    found = facility_location(points, 3)
    assert (found.indices.tolist(), found.sizes.tolist(), found.distance) == ([0, 1, 2], [1, 1, 1], 0.0)


def test_ties_go_to_the_lowest_index():
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert facility_location(corners, 2).indices.tolist() == greedy(corners.double(), 2)[0] == [0, 1]


@pytest.mark.parametrize(
    ("count", "value", "match"), [(0, 1.0, "count=0"), (4, 1.0, "count=4"), (1, float("nan"), "finite")]
)
def test_what_is_refused(count, value, match):
    with pytest.raises(ValueError, match=match):
        facility_location(torch.full((3, 2), value), count)

import pytest
import torch

from optbench.curvature.trajectory import principal_components
from optbench.objective.vectors import flatten

LIKE = [torch.zeros(6, 5), torch.zeros(7)]


def states_from(rows, dtype=torch.float64):
    """Lists of two tensors, (6, 5) and (7,), from rows of 37 numbers."""
    return [[row[:30].view(6, 5).to(dtype), row[30:].to(dtype)] for row in rows]


def planar(count=12, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    plane = torch.linalg.qr(torch.randn(37, 2, dtype=torch.float64, generator=generator))[0].T
    place = torch.randn(count, 2, dtype=torch.float64, generator=generator)
    return states_from(place @ plane + torch.randn(37, dtype=torch.float64, generator=generator), dtype), plane, place


@pytest.mark.parametrize("centred", [True, False])
def test_a_planar_trajectory_is_explained_and_rebuilt(centred):
    states, *_ = planar()
    found = principal_components(states, centred=centred)
    assert float(found.explained.sum()) == pytest.approx(1, abs=1e-8)
    directions = torch.stack([flatten(direction) for direction in found.directions])
    torch.testing.assert_close(directions @ directions.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-10)
    last = flatten(states[-1])
    for state, coordinates in zip(states, found.coordinates, strict=True):
        torch.testing.assert_close(last + coordinates @ directions, flatten(state), rtol=0, atol=1e-10)
    assert found.coordinates[-1].tolist() == [0, 0]
    assert [part.shape for part in found.directions[0]] == [part.shape for part in LIKE]


@pytest.mark.parametrize("centred", [True, False])
def test_components_are_those_of_a_singular_value_decomposition(centred):
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(15, 37, dtype=torch.float64, generator=generator).cumsum(0)
    found = principal_components(states_from(rows), components=3, centred=centred)
    differences = rows - rows[-1]
    matrix = differences - differences.mean(0) if centred else differences
    _, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(found.explained, singular[:3] ** 2 / (singular**2).sum(), rtol=1e-9, atol=0)
    directions = torch.stack([flatten(direction) for direction in found.directions])
    overlaps = (directions @ right[:3].T).abs()
    torch.testing.assert_close(overlaps, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.coordinates, differences @ directions.T, rtol=0, atol=1e-9)


def test_columns_are_taken_in_chunks(monkeypatch):
    states, *_ = planar()
    whole = principal_components(states)
    monkeypatch.setattr("optbench.curvature.trajectory.CHUNK", 10)
    parts = principal_components(states)
    torch.testing.assert_close(parts.coordinates, whole.coordinates)
    torch.testing.assert_close(flatten(parts.directions[0]), flatten(whole.directions[0]))


def test_directions_come_in_the_type_of_the_parameters():
    states, *_ = planar(dtype=torch.float32)
    found = principal_components(states)
    assert {part.dtype for direction in found.directions for part in direction} == {torch.float32}
    assert found.explained.dtype == found.coordinates.dtype == torch.float64
    assert float(found.explained.sum()) == pytest.approx(1, abs=1e-8)


def test_a_straight_path_has_one_component():
    rows = torch.arange(5, dtype=torch.float64).unsqueeze(1) * torch.linspace(1, 2, 37, dtype=torch.float64)
    found = principal_components(states_from(rows))
    assert len(found.directions) == 1
    assert found.explained.tolist() == pytest.approx([1], abs=1e-12)
    length = float(torch.linspace(1, 2, 37, dtype=torch.float64).norm())
    assert found.coordinates.abs().flatten().tolist() == pytest.approx([k * length for k in (4, 3, 2, 1, 0)])


def test_biases_may_count_as_if_they_had_never_moved():
    states, *_ = planar()
    found = principal_components(states, weights_only=True)
    assert not any(direction[1].any() for direction in found.directions)
    weights = torch.stack([(state[0] - states[-1][0]).flatten() for state in states])
    expected = torch.linalg.svdvals(weights - weights.mean(0))
    torch.testing.assert_close(found.explained, expected[:2] ** 2 / (expected**2).sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [torch.ones(1, 37), torch.ones(4, 37)])
def test_no_path_is_refused(rows):
    with pytest.raises(ValueError, match="components of"):
        principal_components(states_from(rows))

import math

import pytest
import torch

from optbench.optimizers.span import minimum_in_span

DTYPE = torch.float64


def quadratic(generator, size):
    root = torch.randn(size, size, generator=generator, dtype=DTYPE)
    return root @ root.T + 0.1 * torch.eye(size, dtype=DTYPE), torch.randn(size, generator=generator, dtype=DTYPE)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_the_minimum_over_independent_directions(generator):
    gram, slopes = quadratic(generator, 3)
    coefficients, value = minimum_in_span(gram, slopes)
    solution = torch.linalg.solve(gram, -slopes)
    torch.testing.assert_close(torch.tensor(coefficients, dtype=DTYPE), solution)
    assert value == pytest.approx(float(slopes @ solution + solution @ gram @ solution / 2))


@pytest.mark.parametrize(
    ("gram", "slopes", "coefficients"),
    [
        ([[2.0]], [3.0], [-1.5]),
        ([[2.0, 4.0], [4.0, 8.0]], [1.0, 2.0], [-0.5, 0.0]),  # the second is twice the first
        ([[2.0, 4.0], [4.0, 8.0 + 1e-9]], [1.0, 2.0], [-0.5, 0.0]),  # or nearly
        ([[2.0, 0.0], [0.0, 0.0]], [1.0, 0.0], [-0.5, 0.0]),  # a direction that is zero
        ([[0.0, 0.0], [0.0, 2.0]], [0.0, 1.0], [0.0, -0.5]),
        ([[0.0]], [0.0], [0.0]),
    ],
)
def test_directions_that_add_nothing_are_left_out(gram, slopes, coefficients):
    found, value = minimum_in_span(torch.tensor(gram), torch.tensor(slopes))
    assert found == pytest.approx(coefficients)
    assert value == pytest.approx(sum(slope * each for slope, each in zip(slopes, coefficients, strict=True)) / 2)


def test_directions_of_very_different_lengths_are_all_used(generator):
    gram, slopes = quadratic(generator, 3)
    lengths = torch.tensor([1e-6, 1.0, 1e6], dtype=DTYPE)
    found, value = minimum_in_span(gram * torch.outer(lengths, lengths), slopes * lengths)
    torch.testing.assert_close(torch.tensor(found, dtype=DTYPE) * lengths, torch.linalg.solve(gram, -slopes))
    assert value == pytest.approx(minimum_in_span(gram, slopes)[1])


def test_not_a_number_comes_out():
    coefficients, value = minimum_in_span(torch.tensor([[math.nan]]), torch.tensor([1.0]))
    assert math.isnan(coefficients[0])
    assert math.isnan(value)


def test_it_takes_the_steps_of_conjugate_gradients(generator):
    """Over the span of -g and the last step, which reaches the minimum of a quadratic in as many steps as unknowns."""
    size = 6
    matrix, offset = quadratic(generator, size)
    point, last = torch.zeros(size, dtype=DTYPE), None
    residual = -offset  # of conjugate gradients (Hestenes & Stiefel 1952) for matrix x = -offset
    direction, solution = residual, torch.zeros(size, dtype=DTYPE)
    for _ in range(size):
        gradient = matrix @ point + offset
        directions = torch.stack([-gradient] if last is None else [-gradient, last])
        coefficients, _ = minimum_in_span(directions @ matrix @ directions.T, directions @ gradient)
        last = torch.tensor(coefficients, dtype=DTYPE) @ directions
        point = point + last
        length = residual @ residual / (direction @ matrix @ direction)
        solution = solution + length * direction
        after = residual - length * matrix @ direction
        direction, residual = after + (after @ after) / (residual @ residual) * direction, after
        torch.testing.assert_close(point, solution, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(point, torch.linalg.solve(matrix, -offset), rtol=1e-7, atol=1e-9)

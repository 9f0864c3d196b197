"""The loss along a direction: exponents and curvatures of functions that are known."""

import math

import numpy as np
import pytest
import torch

from optbench.curvature.profiles import Profile, growth_exponents, logarithmic_radii, profile
from optbench.errors import UserError

RADII = logarithmic_radii(1e-6, 10.0)


def evaluated(function):
    return lambda point: {"loss": float(function(*point))}


def along(function, origin, direction, radii=RADII):
    return profile(evaluated(function), origin, direction, radii)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_a_quadratic_has_the_exponent_2_and_its_curvature_at_every_distance():
    """Catches a natural against a decimal logarithm, and a direction that is not scaled to the length 1."""
    matrix = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = matrix @ matrix.T
    direction = [numbers(3.0, 1.0), numbers(-2.0, 5.0)]
    found = along(
        lambda a, b: torch.cat([a, b]) @ matrix @ torch.cat([a, b]) / 2, [torch.zeros(2).double()] * 2, direction
    )
    unit = torch.cat(direction) / torch.cat(direction).norm()
    assert found.loss == 0
    torch.testing.assert_close(found.curvatures, (unit @ matrix @ unit).expand(len(RADII)), rtol=1e-12, atol=0)
    inner = found.exponents[2:-2]
    assert (inner - 2).abs().max() < 1e-6
    assert found.exponents[[0, 1, -2, -1]].isnan().all()


def test_the_symmetrized_profile_has_neither_a_linear_nor_a_cubic_term():
    """One side alone is dominated by the gradient, and would be taken for an exponent of 1."""

    def loss(x):
        return (0.5 * x[0] + 3 * x[0] ** 2 + 7 * x[0] ** 3) / 1

    radii = logarithmic_radii(1e-3, 1.0)
    found = along(loss, [numbers(0.0)], [numbers(1.0)], radii)
    assert found.exponents[2:-2].tolist() == pytest.approx([2.0] * (len(radii) - 4), abs=1e-6)
    assert found.curvatures.tolist() == pytest.approx([6.0] * len(radii), rel=1e-9)
    assert float(growth_exponents(found.radii, found.ahead)[2]) == pytest.approx(1.0, abs=0.05)
    assert found.ahead[0] == pytest.approx(0.5e-3 + 3e-6 + 7e-9, rel=1e-12)
    assert found.behind[0] == pytest.approx(-0.5e-3 + 3e-6 - 7e-9, rel=1e-12)


@pytest.mark.parametrize("exponent", [1.2, 1.5, 3.0])
def test_a_power_has_its_exponent(exponent):
    found = along(lambda x: x.norm() ** exponent, [numbers(0.0, 0.0)], [numbers(1.0, 1.0)])
    assert (found.exponents[2:-2] - exponent).abs().max() < 1e-6


def test_a_pseudo_huber_loss_turns_from_a_quadratic_to_a_line_at_its_radius():
    found = along(lambda x: (1 + (x[0] / 0.01) ** 2).sqrt() - 1, [numbers(0.0)], [numbers(2.0)])
    x = np.array(RADII) / 0.01
    closed = x**2 / (np.sqrt(1 + x**2) * (np.sqrt(1 + x**2) - 1))  # r g'/g
    smooth = slice(20, -2)  # the value near 0 suffers from cancellation
    assert found.exponents[smooth].tolist() == pytest.approx(closed[smooth].tolist(), abs=0.02)
    assert float(found.curvatures[20]) == pytest.approx(1e4, rel=1e-2)
    assert float(found.curvatures[-1]) == pytest.approx(2 * (math.sqrt(1 + 1e6) - 1) / 100, rel=1e-9)


def test_rises_within_rounding_are_left_out():
    def loss(x):
        return 1.0 + 0.5 * x[0] ** 2

    wide = along(loss, [numbers(0.0)], [numbers(1.0)], logarithmic_radii(1e-9, 1.0))
    # ½ r² > 1000 eps from r = 6.7e-7 on.
    assert torch.equal(wide.symmetrized.isnan(), wide.radii < math.sqrt(2e3 * torch.finfo(torch.float64).eps))
    kept = wide.exponents[~wide.exponents.isnan()]
    assert (kept - 2).abs().max() < 2e-3
    single = along(lambda x: loss(x).float(), [torch.zeros(1)], [torch.ones(1)], logarithmic_radii(1e-9, 1.0))
    assert torch.equal(single.symmetrized.isnan(), single.radii < math.sqrt(2e3 * torch.finfo(torch.float32).eps))


def test_a_loss_that_falls_or_overflows_has_no_exponent_there():
    rises = numbers(1e-4, 1e-2, 1.0, math.inf, 1e4, 1e6, 1e8, 1e10, -1.0)
    found = growth_exponents(torch.logspace(-2, 2, 9, dtype=torch.float64), rises, 3)
    assert found.isnan().tolist() == [True, False, True, True, True, False, False, True, True]
    assert found[[1, 5, 6]].tolist() == pytest.approx([4.0] * 3)
    assert growth_exponents(numbers(1.0, 2.0), numbers(1.0, 4.0)).isnan().all()


def test_exponents_are_the_slopes_of_least_squares():
    generator = np.random.default_rng(0)
    radii = np.sort(generator.uniform(0.1, 3, 9))
    rises = generator.uniform(0.5, 2, 9)
    found = growth_exponents(torch.tensor(radii), torch.tensor(rises), 5)
    expected = [np.polyfit(np.log(radii[i - 2 : i + 3]), np.log(rises[i - 2 : i + 3]), 1)[0] for i in range(2, 7)]
    assert found[2:-2].tolist() == pytest.approx(expected, rel=1e-10)


def test_radii_are_at_equal_ratios_and_reach_both_ends():
    assert logarithmic_radii(0.01, 100.0, 2) == pytest.approx([10 ** (i / 2 - 2) for i in range(9)], rel=1e-12)
    assert logarithmic_radii(1.0, 3.0, 1) == [1.0, 3.0]
    for ends in [(0.0, 1.0), (2.0, 1.0)]:
        with pytest.raises(UserError, match="smallest above 0 and below the largest"):
            logarithmic_radii(*ends)


def test_what_has_no_profile_is_refused():
    with pytest.raises(ValueError, match="length 0"):
        along(lambda x: x.sum(), [numbers(1.0)], [numbers(0.0)])
    for window in (1, 4):
        with pytest.raises(ValueError, match="must be odd"):
            growth_exponents(numbers(1.0, 2.0), numbers(1.0, 2.0), window)


def test_a_profile_is_that_of_the_ends_it_was_given():
    one = Profile(numbers(1.0, 2.0), numbers(3.0, 4.0), numbers(5.0, 8.0), 1.0, numbers(0.0, 0.0))
    assert one.symmetrized.tolist() == [4.0, 6.0]
    assert one.curvatures.tolist() == [8.0, 3.0]

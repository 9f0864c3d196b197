"""The noise scale against gradients whose mean and covariance are known."""

import math

import pytest
import torch

from optbench.curvature import NoiseScale, dense_operator, squared_norms
from optbench.errors import UserError


def noisy_gradients(count, seed=0):
    """Draws of mean gradients at b = 4, 16 of them making one at B = 64: (count, 16, 50), |G|^2 and tr Sigma."""
    generator = torch.Generator().manual_seed(seed)
    mean = 0.3 * torch.randn(50, dtype=torch.float64, generator=generator)
    deviations = 2 + 3 * torch.rand(50, dtype=torch.float64, generator=generator)
    noise = torch.randn(count, 16, 50, dtype=torch.float64, generator=generator) / math.sqrt(4)
    return mean + deviations * noise, mean, deviations


def test_numerator_and_denominator_are_unbiased_for_nested_batches():
    gradients, mean, deviations = noisy_gradients(4000)
    found = NoiseScale()
    for draw in gradients:
        found.update(*squared_norms(draw), 4, 64)
    assert found.updates == 4000
    assert found.gradient_norm_squared == pytest.approx(float(mean.square().sum()), rel=0.03)
    assert found.trace == pytest.approx(float(deviations.square().sum()), rel=0.03)
    assert found.value == pytest.approx(float(deviations.square().sum() / mean.square().sum()), rel=0.04)


def test_one_update_by_hand():
    found = NoiseScale()
    found.update(10.0, 4.0, 2, 8)
    assert found.gradient_norm_squared == pytest.approx((8 * 4 - 2 * 10) / 6)
    assert found.trace == pytest.approx((10 - 4) / (1 / 2 - 1 / 8))
    assert found.value == pytest.approx(16 / 2)


def test_sums_are_averaged_before_they_are_divided():
    found = NoiseScale()
    for small, big in ((10.0, 4.0), (20.0, 5.0)):
        found.update(small, big, 2, 8)
    # |G|^2: 2 and 0, tr: 16 and 40; the second quotient alone would be infinite.
    assert found.value == pytest.approx(28 / 1)


def test_an_exponential_mean_is_without_the_bias_of_its_start():
    found = NoiseScale(decay=0.9)
    found.update(10.0, 4.0, 2, 8)
    assert (found.gradient_norm_squared, found.trace) == pytest.approx((2, 16))
    found.update(20.0, 5.0, 2, 8)
    weights = (0.09, 0.1)
    assert found.trace == pytest.approx((weights[0] * 16 + weights[1] * 40) / sum(weights))
    again = NoiseScale(decay=0.9)
    again.load_state_dict(found.state_dict())
    for one in (found, again):
        one.update(9.0, 4.0, 2, 8)
    assert again.value == found.value
    assert again.updates == 3


@pytest.mark.parametrize(("small", "big"), [(40.0, 4.0), (20.0, 5.0)])
def test_a_gradient_lost_in_noise_has_no_noise_scale(small, big):
    found = NoiseScale()
    assert math.isnan(found.value)
    assert math.isnan(found.trace)
    found.update(small, big, 2, 8)
    assert found.gradient_norm_squared <= 0
    assert math.isnan(found.value)


@pytest.mark.parametrize("big", [4, 6])
def test_draws_without_replacement_from_few_examples(big):
    """The exact mean over every subset of 6 examples, of 2 and of ``big`` (6: the whole), gives |G|^2 and tr Sigma."""
    examples = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def mean_square(size):
        subsets = torch.combinations(torch.arange(6), size)
        return float(examples[subsets].mean(1).square().sum(1).mean())

    found, without = NoiseScale(examples=6), NoiseScale()
    for one in (found, without):
        one.update(mean_square(2), mean_square(big), 2, big)
    mean = examples.mean(0)
    assert found.gradient_norm_squared == pytest.approx(float(mean.square().sum()))
    assert found.trace == pytest.approx(float((examples - mean).square().sum(1).mean()))
    assert without.trace != pytest.approx(found.trace, rel=0.1)


def test_weighted_with_the_hessian_it_is_the_other_noise_scale():
    gradients, mean, deviations = noisy_gradients(4000, seed=1)
    curvatures = torch.linspace(0.1, 3, 50, dtype=torch.float64)
    hessian = dense_operator(torch.diag(curvatures))
    found = NoiseScale()
    for draw in gradients:
        found.update(*squared_norms(draw, hessian), 4, 64)
    assert found.gradient_norm_squared == pytest.approx(float((curvatures * mean.square()).sum()), rel=0.04)
    assert found.trace == pytest.approx(float((curvatures * deviations.square()).sum()), rel=0.03)


@pytest.mark.parametrize(("small", "big", "examples"), [(0, 4, None), (4, 4, None), (8, 4, None), (2, 9, 8)])
def test_batch_sizes_that_say_nothing_are_refused(small, big, examples):
    with pytest.raises(UserError, match=f"small={small}, big={big}"):
        NoiseScale(examples=examples).update(1.0, 1.0, small, big)


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"decay=1\.0"):
        NoiseScale(decay=1.0)
    with pytest.raises(UserError, match="examples=1"):
        NoiseScale(examples=1)
    with pytest.raises(UserError, match="1 part"):
        squared_norms(torch.ones(1, 3))

"""Steps to a target against the batch: the table of the noisy quadratic model with hᵢ = 1/i, and what bounds it."""

import numpy as np
import pytest

from optbench.analysis.laws.critical_batch import fit_critical_batch
from optbench.theory import (
    LinearMethod,
    Spectrum,
    harmonic_spectrum,
    information_bound,
    steps_by_batch,
    steps_to_target,
    tuned_steps,
)
from optbench.theory.tuned_steps import FAMILIES

# Steps to a risk of 0.01, tuned on coarse grids by an independent program.
COARSE = {
    "sgd": {64: 100_826, 256: 25_823, 1024: 11_210, 4096: 7_987, 16_384: 7_609, 262_144: 7_504},
    "preconditioned": {64: 22_139, 256: 5_460, 1024: 1_366, 4096: 358, 16_384: 110, 262_144: 91},
    "momentum": {256: 22_023, 1024: 5_713, 4096: 1_440, 16_384: 350, 262_144: 217},
    "averaged": {64: 14_735, 256: 8_575, 1024: 7_194, 4096: 6_838, 16_384: 6_735, 262_144: 6_692},
}


def fewest(name, batch):
    spectrum = harmonic_spectrum()
    return tuned_steps(*FAMILIES[name], spectrum, spectrum.curvatures / batch, 0.01)


def no_fewer(batch):
    """The steps after which the information bound on the risk is at most 0.01."""
    spectrum = harmonic_spectrum()
    steps = np.arange(1, 20_000)[:, None]
    bounds = information_bound(spectrum.curvatures, spectrum.curvatures / batch, steps)
    risks = 0.5 * bounds @ (spectrum.multiplicities * spectrum.curvatures)
    return steps[np.flatnonzero(risks <= 0.01)[0], 0]


def test_the_binned_spectrum_keeps_the_trace():
    """Catches the middle of a bin in place of its mean curvature, and directions that fall off the last bin."""
    spectrum = harmonic_spectrum()
    assert len(spectrum.curvatures) == 83
    assert spectrum.multiplicities.sum() == 10_000
    assert spectrum.curvatures[0] == 1.0
    risk = 0.5 * spectrum.multiplicities @ spectrum.curvatures
    assert risk == pytest.approx(4.893803, abs=5e-7)
    assert risk == pytest.approx(0.5 * (1 / np.arange(1, 10_001)).sum(), rel=1e-12)


def test_the_bins_change_the_steps_by_a_thousandth():
    binned, batch = harmonic_spectrum(), 1024
    exact = Spectrum(1 / np.arange(1, 10_001), np.ones(10_000))
    found, expected = (
        steps_to_target(
            [LinearMethod.sgd(1.6, h) for h in spectrum.curvatures],
            spectrum.curvatures,
            spectrum.curvatures / batch,
            spectrum.multiplicities,
            0.01,
        )
        for spectrum in (binned, exact)
    )
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "batch"),
    [("sgd", 1024), ("sgd", 262_144), ("preconditioned", 1024), ("preconditioned", 262_144), ("momentum", 16_384)],
)
def test_tuned_steps(name, batch):
    """Catches h to another power in the preconditioner, noise that does not fall with the batch, and searches that stop early."""
    found = fewest(name, batch)
    assert no_fewer(batch) <= found.steps <= 1.02 * COARSE[name][batch]
    assert found.steps >= 0.7 * COARSE[name][batch]


@pytest.mark.slow
def test_the_table_and_what_it_says():
    batches = list(COARSE["sgd"])
    table = steps_by_batch(batches)
    steps = {name: {batch: table[name][batch].steps for batch in batches} for name in table}
    for name, row in COARSE.items():
        for batch, coarse in row.items():
            assert max(no_fewer(batch), 0.7 * coarse) <= steps[name][batch] <= 1.02 * coarse, (name, batch)
    critical = {}
    for name, row in steps.items():
        values = np.array(list(row.values()))
        critical[name] = fit_critical_batch(np.array(batches), values).batch
        assert (np.diff(values) < 0).all()
    # Momentum and preconditioning move the critical batch up, an average moves it down.
    assert (
        critical["averaged"] < critical["sgd"] < 1000 < 10_000 < min(critical["momentum"], critical["preconditioned"])
    )
    # Momentum gains little where the steps are proportional to 1/B, and a factor of more than 40 at the largest batch.
    assert steps["sgd"][64] < 1.25 * steps["momentum"][64]
    assert steps["sgd"][262_144] > 40 * steps["momentum"][262_144]
    assert steps["sgd"][64] > 6 * steps["averaged"][64]


def test_tuned_steps_without_noise_are_those_of_a_dense_grid():
    curvatures = np.array([1.0, 0.1])
    spectrum = Spectrum(curvatures, np.array([1.0, 3.0]))
    rates = np.geomspace(0.5, 2.1, 4000)
    squares = (1 - rates[:, None] * curvatures) ** 2
    counts = next(
        step for step in range(100) if (0.5 * squares**step @ (curvatures * spectrum.multiplicities)).min() <= 1e-3
    )
    found = tuned_steps(lambda rate, _, h: LinearMethod.sgd(rate, h), None, spectrum, np.zeros(2), 1e-3)
    assert found.steps == counts
    assert found.second == 0


def test_a_target_that_no_setting_reaches():
    spectrum = Spectrum(np.ones(1), np.ones(1))
    assert tuned_steps(*FAMILIES["sgd"], spectrum, np.ones(1), 1e-9) is None

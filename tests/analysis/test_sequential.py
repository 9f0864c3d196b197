"""Sequential verdicts: closed forms against numerical integration, and error rates in simulations with a known truth."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from optbench.analysis.statistics import sequential
from optbench.analysis.statistics.sequential import Rule, verdict

PRINTED = [
    ((1, 2, 3), 2.34265, 0.94864, 4.44464),
    ((0.5, 1.2, 0.9, 1.6), 4.87864, 0.98071, 9.56901),
    ((0.3, -0.1, 0.4, 0.2, 0.6, 0.1), 2.68411, 0.97156, 5.21552),
]


def evidence(values, noise="normal", deviation=1.0):
    found = Rule(noise=noise, deviation=deviation).evidence(np.asarray(values, dtype=float))
    return [float(np.exp(log[-1])) for log in (found.two, found.above, found.below)]


def integrated(values, low=-9.0, high=9.0):
    """The marginal likelihood of effects N(0, 1) within bounds and of σ with the density 1 / σ, over that of the effect 0."""
    x = np.asarray(values, dtype=float)
    log_sigma = np.linspace(-8, 12, 1001)
    effects = np.linspace(low, high, 1201)

    def likelihood(effect):
        deviations = x / np.exp(log_sigma)[:, None] - effect
        return integrate.simpson(np.exp(stats.norm.logpdf(deviations).sum(1) - len(x) * log_sigma), x=log_sigma)

    weighted = [likelihood(effect) * stats.norm.pdf(effect) for effect in effects]
    return integrate.simpson(weighted, x=effects) / likelihood(0.0)


@pytest.mark.parametrize(("values", "e", "above", "one_sided"), PRINTED)
def test_the_evidence_has_its_known_values(values, e, above, one_sided):
    two, positive, negative = evidence(values)
    assert two == pytest.approx(e, abs=6e-6)
    assert positive == pytest.approx(one_sided, abs=6e-6)
    assert positive / (2 * two) == pytest.approx(above, abs=6e-6)
    assert (positive + negative) / 2 == pytest.approx(two, rel=1e-12)


@pytest.mark.parametrize("values", [(1, 2, 3), (0.5, 1.2, -0.9, 1.6)])
def test_the_evidence_is_the_integral_over_effects_and_deviations(values):
    two, above, below = evidence(values)
    assert two == pytest.approx(integrated(values), rel=2e-5)
    # A one-sided e-process is the Bayes factor of effects on that side alone, of which each has half the mass.
    assert above == pytest.approx(2 * integrated(values, low=0), rel=2e-5)
    assert below == pytest.approx(2 * integrated(values, high=0), rel=2e-5)


def test_the_evidence_for_symmetric_noise_is_the_integral_over_slopes():
    x, deviation = np.array([0.4, -0.1, 0.9, 0.9]), 0.7

    def density(slope):
        return math.exp(slope * x.sum() - slope**2 * (x**2).sum() / 2) * stats.norm.pdf(slope, scale=1 / deviation)

    two, above, below = evidence(x, "symmetric", deviation)
    assert two == pytest.approx(integrate.quad(density, -30, 30, epsabs=1e-12)[0], rel=1e-9)
    assert above == pytest.approx(2 * integrate.quad(density, 0, 30, epsabs=1e-12)[0], rel=1e-9)
    assert below == pytest.approx(2 * integrate.quad(density, -30, 0, epsabs=1e-12)[0], rel=1e-9)


def test_one_difference_is_no_evidence():
    assert evidence([3.7]) == pytest.approx(
        [1.0, 1.5, 0.5]
    )  # the posterior is Student's t with one degree, at location 1


def test_differences_that_are_all_zero_are_evidence_for_zero():
    assert evidence([0.0, 0.0, 0.0]) == pytest.approx([0.5, 0.5, 0.5])  # 4^(-1/2)
    assert evidence([1e-9, -1e-9, 1e-9, -1e-9])[0] == pytest.approx(5**-0.5)


def test_the_evidence_does_not_depend_on_the_unit():
    assert evidence(np.array([0.3, -0.1, 0.4, 0.2]) * 1e-6) == pytest.approx(evidence([0.3, -0.1, 0.4, 0.2]), rel=1e-12)


@pytest.mark.parametrize(
    ("c", "n", "width"),
    [
        *zip([20.0] * 6, [4, 5, 6, 8, 10, 20], [math.inf, 3.780, 2.225, 1.503, 1.224, 0.766], strict=True),
        *zip([8.55] * 6, [4, 5, 6, 8, 10, 20], [4.489, 2.085, 1.599, 1.208, 1.021, 0.672], strict=True),
    ],
)
def test_half_widths_have_their_known_values(c, n, width):
    assert sequential.half_width(1.0, n, c) == pytest.approx(width, abs=6e-4)


@pytest.mark.parametrize("noise", ["normal", "symmetric"])
def test_the_bounds_are_the_means_against_which_the_evidence_reaches_the_threshold(noise):
    x = np.random.default_rng(3).standard_normal(18) + 0.2
    rule = Rule(noise=noise, deviation=1.5)
    found = verdict(x, rule)
    for bound, sign in ((found.low, 1), (found.high, -1)):
        two, above, below = evidence(x - bound, noise, 1.5)
        reached = two if noise == "normal" else (above if sign > 0 else below) / 2
        assert reached == pytest.approx(rule.bound, rel=1e-6)
        assert evidence(x - bound - sign * 0.01, noise, 1.5)[0] < rule.bound


def test_no_mean_is_excluded_by_few_values():
    found = verdict([1.0, 1.1, 0.9], Rule())
    assert (found.outcome, found.low, found.high) == ("undecided", -math.inf, math.inf)
    assert found.estimate == pytest.approx(1.0)
    assert sequential.symmetric_half_width(1.0, 3, 20.0, 1.0) == math.inf


def test_thresholds_are_those_of_the_table_and_never_above_ville():
    two = [sequential.threshold(0.05, n) for n in (8, 10, 12, 16, 20, 30, 40)]
    assert two == pytest.approx([8.0, 9.2, 9.9, 11.1, 12.2, 13.6, 14.5])
    for beta, expected in ((0.1, [3.9, 4.3, 4.7, 5.2, 5.5, 6.0, 6.3]), (0.2, [1.7, 1.9, 2.0, 2.1, 2.3, 2.5, 2.6])):
        assert [sequential.one_sided_threshold(beta, n) for n in (8, 10, 12, 16, 20, 30, 40)] == pytest.approx(expected)
    assert sequential.threshold(0.05, 41) == sequential.threshold(0.05, 10**6) == 20
    assert sequential.threshold(0.001, 20) == 1000
    assert 31.4 < sequential.threshold(0.05 / 3, 20) < 65.6
    assert 12.2 < sequential.threshold(0.05, 25) < 13.6
    for alpha in np.geomspace(0.001, 0.4, 60):
        for n in (3, 4, 7, 25, 40, 50):
            assert sequential.threshold(alpha, n) <= (1 + 1e-9) / alpha


def simulated_thresholds(replays, seed):
    """The 95 % points of the largest e from n = 4 on, and the 90 and 80 % points of the one-sided one, at N = 8, 12, 20."""
    found = []
    for noise in ("standard_normal", "random"):
        generator = np.random.default_rng(seed)
        two, one = [], []
        for _ in range(replays // 5000):
            x = getattr(generator, noise)((5000, 20))
            # Written anew: the t statistic about 0, and a posterior that is Student's t.
            n = np.arange(1.0, 21)
            mean, squares = x.cumsum(1) / n - (0.5 if noise == "random" else 0.0), (x - 0.5 * (noise == "random")) ** 2
            squares = squares.cumsum(1)
            share = n * mean**2 / squares
            log_e = -np.log1p(n) / 2 - n / 2 * np.log1p(-share * n / (1 + n))
            scale = np.sqrt((squares - n**2 * mean**2 / (1 + n)) / n / (1 + n))
            log_one = log_e + np.log(2) + np.log(special.stdtr(n, n * mean / (1 + n) / scale))
            two.append(np.maximum.accumulate(log_e[:, 3:], 1)[:, [4, 8, 16]])
            one.append(np.maximum.accumulate(log_one[:, 3:], 1)[:, [4, 8, 16]])
        quantiles = [np.quantile(np.concatenate(two), 0.95, axis=0)]
        quantiles += [np.quantile(np.concatenate(one), level, axis=0) for level in (0.9, 0.8)]
        found.append(np.exp(quantiles))
    return np.max(found, axis=0)


def table():
    return np.array([
        [sequential.threshold(0.05, n) for n in (8, 12, 20)],
        [sequential.one_sided_threshold(0.1, n) for n in (8, 12, 20)],
        [sequential.one_sided_threshold(0.2, n) for n in (8, 12, 20)],
    ])  # fmt: skip


def test_thresholds_are_simulated_again_roughly():
    # A 95 % point of 10,000 replays has a standard error of 4.5 %, the others less.
    assert simulated_thresholds(10_000, 1) == pytest.approx(table(), rel=0.1)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_thresholds_are_simulated_again():
    assert simulated_thresholds(200_000, 2) == pytest.approx(table(), rel=0.05)


def shares(differences, rule):
    """The shares of rows that end with "better" or "worse", and with "within"."""
    told, within = rule.decisions(differences)
    first = np.argmax(told | within, axis=-1)[:, None]
    return np.take_along_axis(told, first, -1).mean(), np.take_along_axis(within, first, -1).mean()


@pytest.mark.parametrize("noise", ["normal", "uniform", "t4", "two skewed arms"])
def test_wrong_verdicts_are_at_most_alpha(noise):
    generator, shape = np.random.default_rng(5), (10_000, 20)
    x = {
        "normal": lambda: generator.standard_normal(shape),
        "uniform": lambda: generator.random(shape) - 0.5,
        "t4": lambda: generator.standard_t(4, shape),
        "two skewed arms": lambda: generator.gamma(2, size=shape) - generator.gamma(2, size=shape),
    }[noise]()
    assert shares(x, Rule())[0] < 0.05
    margin = float(x.std())
    assert shares(x, Rule(margin=margin))[0] < 0.05
    # "Within" at the margin is wrong at most a share beta of the time.
    assert shares(x + margin, Rule(margin=margin))[1] < 0.21


def test_symmetric_noise_with_two_values_is_never_wrong_more_often_than_alpha():
    x = np.random.default_rng(6).choice([-1.0, 1.0], (20_000, 20))
    assert shares(x, Rule(noise="symmetric", deviation=1.0))[0] < 0.01
    # The t-test's evidence, looked at from the fourth value on, is: two values of one size are not normal.
    assert (Rule().evidence(x).two[:, 3:] >= math.log(Rule().bound)).any(1).mean() > 0.07
    assert shares(x, Rule())[0] < 0.055  # nothing before the sixth value where two are equal


@pytest.mark.parametrize(
    ("differences", "rule", "outcome", "n"),
    [
        ([1.0, 1.2, 0.9, 1.1, 1.3], Rule(margin=0.1, maximum=10), "better", 4),
        # With more seeds to come the threshold is higher than any four values reach, 5^(3/2).
        ([-1.0, -1.2, -0.9, -1.1, -1.3], Rule(), "worse", 5),
        ([0.1, -0.1, 0.05, -0.02, 0.03], Rule(margin=1.0), "within", 4),
        ([0.1, -0.1, 0.05, -0.02, 0.03], Rule(), "undecided", 5),
        # Told from 0 and within the margin: it is better.
        ([0.5, 0.51, 0.49, 0.505, 0.495], Rule(margin=1.0, maximum=10), "better", 4),
        # A tie with a later value does not undo it.
        ([1.0, 1.2, 0.9, 1.1, 1.2, 1.3], Rule(margin=0.1, maximum=10), "better", 4),
        ([1.0, 1.2, 1.2, 1.1, 0.9, 1.3], Rule(margin=0.1, maximum=10), "better", 6),
        # Equal values, and values known to a resolution, are not believed before the sixth.
        ([1.0] * 5, Rule(), "undecided", 5),
        ([1.0] * 8, Rule(), "better", 6),
        ([1.0, 1.2, 0.9, 1.1, 1.3], Rule(resolution=0.01), "undecided", 5),
        ([0.0] * 8, Rule(margin=1.0), "within", 6),
        ([0.0] * 8, Rule(), "undecided", 8),
        ([1.0] * 8, Rule(resolution=30.0), "undecided", 8),
    ],
)
def test_outcomes(differences, rule, outcome, n):
    found = verdict(differences, rule)
    assert (found.outcome, found.n) == (outcome, n)
    assert found.maximum == rule.maximum


def test_a_verdict_is_that_of_the_shortest_prefix_that_decides():
    generator = np.random.default_rng(8)
    for shift in (0.0, 0.8, 2.0):
        for _ in range(12):
            # Rounded, so that there are ties.
            x = np.round(generator.standard_normal(20) + shift, 1)
            rule = Rule(margin=1.5)
            states = [verdict(x[:n], rule) for n in range(1, 21)]
            decided = [n for n, state in enumerate(states) if state.outcome != "undecided"]
            if decided:
                assert [repr(state) for state in states[decided[0] :]] == [repr(states[decided[0]])] * (20 - decided[0])
                assert states[decided[0]].n == decided[0] + 1
            assert all(state.n == n + 1 for n, state in enumerate(states) if state.outcome == "undecided")


def test_evidence_without_a_margin_is_asked_to_hold_for_any_number_of_seeds():
    assert Rule(alpha=0.01).bound == 100
    assert Rule(margin=1.0).bound == pytest.approx(12.2)
    assert Rule(margin=1.0, maximum=10**4).bound == 20
    assert Rule(margin=1.0, noise="symmetric", deviation=1.0).bound == 20
    assert Rule(beta=0.1).bound_within == pytest.approx(5.5)


def test_values_beyond_the_maximum_change_nothing():
    x = [0.1, -0.3, 0.2, 0.1, -0.2, 0.4, 0.05, 0.3]
    rule = Rule(maximum=8)
    assert repr(verdict([*x, *range(30)], rule)) == repr(verdict(x, rule))


def test_a_mean_told_from_zero_has_bounds_that_exclude_it_and_no_other_has():
    generator = np.random.default_rng(9)
    for _ in range(100):
        found = verdict(generator.standard_normal(12) + generator.choice([0, 1, 2]), Rule(maximum=12))
        assert (found.low > 0 or found.high < 0) == (found.outcome in ("better", "worse"))
        assert found.low < found.estimate < found.high


def test_nothing_is_known_without_differences():
    found = verdict([], Rule(margin=1.0))
    assert (found.outcome, found.n, found.e) == ("undecided", 0, 1.0)
    assert math.isnan(found.estimate)


def test_differences_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="difference inf"):
        verdict([1.0, math.inf], Rule())
    with pytest.raises(ValueError, match="guess"):
        Rule(noise="symmetric")
    with pytest.raises(ValueError, match="margin=0"):
        Rule(margin=0.0)


def test_the_correlation_of_two_arms():
    first, second = np.random.default_rng(10).standard_normal((2, 9))
    assert sequential.correlation(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)
    assert math.isnan(sequential.correlation([1, 2], [1, 2]))
    assert math.isnan(sequential.correlation([1, 1, 1], [1, 2, 3]))

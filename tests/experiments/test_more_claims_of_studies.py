"""The claims of further studies about their committed runs: computed independently, and with changed tables."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.analysis.statistics.intervals import Interval
from tests.experiments import committed
from tests.experiments.test_claims_of_studies import one, outcomes


def student(values):
    """The mean and its 95 % interval, by scipy."""
    values = np.asarray(values, dtype=float)
    return (values.mean(), *stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)))


def bounds(claim):
    return claim.effect, claim.low, claim.high


# ---- quadratic_model --------------------------------------------------------------------------------------------------


def test_the_trend_of_savings_is_a_least_squares_slope_with_the_errors_of_its_points():
    savings = committed.table("quadratic_model", "savings")
    own = savings[(savings["source"] == "network") & (savings["method"] == "momentum")]
    x, y = np.log(own["batch"]), np.log(own["factor"])
    errors = (np.log(own["high"]) - np.log(own["low"])) / (2 * 1.959963984540054)
    design = np.stack([np.ones(len(x)), x], 1)
    inverse = np.linalg.inv(design.T @ design) @ design.T
    slope, error = (inverse @ y)[1], math.sqrt(inverse[1] ** 2 @ errors**2)
    claim = one(committed.claims("quadratic_model"), against="momentum", unit="exponent")
    assert bounds(claim) == pytest.approx((slope, slope - 1.959963984540054 * error, slope + 1.959963984540054 * error))
    assert claim.outcome == "agrees"


def test_outcomes_of_the_quadratic_model_follow_its_tables():
    own, runs = committed.parts("quadratic_model"), committed.runs("quadratic_model")
    measured, savings, slopes = (
        committed.table("quadratic_model", name) for name in ("trained_and_theory", "savings", "local_slopes")
    )

    def found(measured=measured, savings=savings, slopes=slopes):
        return own["claims"](runs, measured, savings, slopes, own["trends"](savings))

    assert found()[0].outcome == "agrees"
    wrong = measured.assign(verdict=measured["verdict"].mask(measured.index == 0, "disagrees"))
    assert found(wrong)[0].outcome == "disagrees"
    turned = savings.assign(factor=1 / savings["factor"], low=1 / savings["high"], high=1 / savings["low"])
    assert outcomes(found(savings=turned)[1:4]) == ["disagrees"] * 3
    assert one(found(savings=turned), condition="batch=1024", against="momentum").outcome == "disagrees"
    perfect = slopes.assign(slope=-1.0, low=-1.1, high=-0.9)
    assert found(slopes=perfect)[-1].outcome == "agrees"


# ---- initialization_and_momentum --------------------------------------------------------------------------------------


def test_the_error_of_nesterov_at_a_large_momentum_is_a_ratio_of_seeds():
    """Each seed reports the learning rate with the least mean error over the other two."""
    runs = committed.runs("initialization_and_momentum")
    own = runs[(runs["config.momentum_schedule.name"] == "sutskever") & (runs["config.init.scale"].astype(float) == 1)]
    own = own[own["config.momentum_schedule.maximum"].astype(float) == 0.999]
    logs = []
    for seed in range(3):
        errors = {}
        for optimizer in ("nesterov", "momentum"):
            here = own[own["optimizer"] == optimizer]
            others = here[here["seed"] != seed].groupby("base_learning_rate")["train_squared_error"].mean()
            best = here[(here["seed"] == seed) & (here["base_learning_rate"] == others.idxmin())]
            errors[optimizer] = best["train_squared_error"].iloc[0]
        logs.append(math.log(errors["nesterov"] / errors["momentum"]))
    claim = one(committed.claims("initialization_and_momentum"), condition="momentum 0.999", against="momentum")
    assert bounds(claim) == pytest.approx(np.exp(student(logs)))
    assert claim.outcome == "agrees"


def test_outcomes_of_momentum_follow_the_errors():
    own, runs = committed.parts("initialization_and_momentum"), committed.runs("initialization_and_momentum")

    def pictures(nesterov, heavy=0.4, scaled=4.0):
        rows = []
        for seed in range(3):
            noise = 1 + 0.01 * seed
            cells = [("SGD", 0.0, 1.0, 1.0)]
            cells += [("Nesterov", momentum, 1.0, nesterov * (1 - 0.02 * seed)) for momentum in (0.9, 0.999)]
            cells += [("heavy ball", 0.9, 1.0, nesterov), ("heavy ball", 0.999, 1.0, heavy)]
            cells += [("Nesterov", 0.9, scale, scaled * nesterov) for scale in (0.25, 4.0)]
            for method, momentum, scale, error in cells:
                before = 3 * error * noise if momentum == 0.999 else error * noise**2
                rows.append(("autoencoder", scale, method, momentum, seed, error * noise, before))
        columns = ["model", "init_scale", "method", "momentum", "seed", "train_squared_error", "before"]
        return pd.DataFrame(rows, columns=columns)

    def found(*values):
        return outcomes(own["claims"](runs, pictures(*values), pd.DataFrame(), pd.Series(dtype=float)))

    assert found(0.3) == ["agrees"] * 4 + ["agrees", "agrees", "not tested"]
    assert found(0.8)[:3] == ["disagrees", "agrees", "disagrees"]
    assert found(0.3, 0.4, 0.2)[4:6] == ["disagrees"] * 2


# ---- limiting_dynamics ------------------------------------------------------------------------------------------------


def test_the_exponent_of_diffusion_falls_by_seed():
    runs = committed.table("limiting_dynamics", "each_run").set_index(["case", "seed"])["exponent"]
    claim = committed.claims("limiting_dynamics")[6]
    assert bounds(claim) == pytest.approx(student(runs["learning rate 0.04"] - runs["learning rate 0.005"]))
    assert claim.outcome == "agrees"


def test_outcomes_of_settled_weights_follow_their_tables():
    own, done = committed.parts("limiting_dynamics"), committed.runs("limiting_dynamics")
    each, directions = (committed.table("limiting_dynamics", name) for name in ("each_run", "directions"))
    settings = own["_settings"](each, directions)
    near = settings.assign(local_ratio=1.0, local_ratio_low=0.9, local_ratio_high=1.1)
    assert own["claims"](done, near, each)[0].outcome == "agrees"
    one_far = near["case"] == "batch 16"
    far = near.assign(**{f"local_ratio{end}": near[f"local_ratio{end}"].mask(one_far, value)
                         for end, value in (("", 1.5), ("_low", 1.4), ("_high", 1.6))})  # fmt: skip
    claim = own["claims"](done, far, each)[0]
    assert (claim.outcome, claim.effect, claim.condition) == ("disagrees", 1.5, "batch 16, the furthest of 8")
    rises = each.assign(exponent=each["learning_rate"] + 0.001 * each["seed"])
    assert own["claims"](done, settings, rises)[6].outcome == "disagrees"
    # The control has no part.
    without = settings["axis"] != "weight decay"
    assert outcomes(own["claims"](done, settings[without], each)) == outcomes(own["claims"](done, settings, each))


# ---- multiscale and shift_curvature -----------------------------------------------------------------------------------


def test_the_shares_of_runs_at_the_edge():
    edge = committed.table("multiscale", "edge")
    met = int(((edge["smallest"] >= 0.95) & (edge["largest"] <= 1.05)).sum())
    claim = committed.claims("multiscale")[0]
    interval = stats.binomtest(met, len(edge)).proportion_ci(method="exact")
    assert bounds(claim) == pytest.approx((met / len(edge), interval.low, interval.high))
    assert claim.outcome == "disagrees"
    own, runs = committed.parts("multiscale"), committed.runs("multiscale")
    all_of = [pd.Series([True] * 9), pd.Series([True] * 9), pd.Series([True] * 8 + [False])]
    assert outcomes(own["claims"](runs, all_of, Interval(0.3, 0.2, 0.4))) == [
        "agrees",
        "agrees",
        "disagrees",
        "disagrees",
    ]
    assert outcomes(own["claims"](runs, all_of, None))[-1] == "not tested"


def test_the_share_of_the_shift_is_that_of_seeds():
    points = committed.table("shift_curvature", "points")
    own = points[(points["model"] == "logreg") & (points["drawing"] == points["drawing"].max())]
    cold = own[own["temperature"] <= 1 / 128]
    claim = committed.claims("shift_curvature")[0]
    assert bounds(claim) == pytest.approx(student(cold.groupby("seed")["share"].mean()))
    assert (claim.outcome, claim.runs) == ("agrees", len(cold))


def test_outcomes_of_the_shift_follow_its_tables():
    own, runs = committed.parts("shift_curvature"), committed.runs("shift_curvature")
    points, settings = (committed.table("shift_curvature", name) for name in ("points", "settings"))
    assert outcomes(committed.claims("shift_curvature")) == ["agrees", "undecided", "disagrees", "agrees"]
    small = points.assign(share=0.5)
    assert own["claims"](runs, small, settings)[0].outcome == "disagrees"
    exact = settings.assign(**{f"{name}{end}": value for name in ("over_prediction", "accuracy")
                               for end, value in (("", 1.0), ("_low", 0.95), ("_high", 1.05))})  # fmt: skip
    assert outcomes(own["claims"](runs, points, exact)) == ["agrees"] * 4
    assert own["claims"](runs, points.assign(ratio=0.5 + 0.01 * points["seed"]), settings)[3].outcome == "disagrees"


# ---- nonconvex_rates --------------------------------------------------------------------------------------------------


def test_the_largest_share_of_a_bound_and_the_slope_of_sgd():
    claims = committed.claims("nonconvex_rates")
    kept = committed.table("nonconvex_rates", "bounds_along_descent")
    claim = one(claims, quantity="largest share of a bound along gradient descent")
    assert claim.effect == max(kept["share"].max(), kept["gradient_share"].max())
    noise = committed.table("nonconvex_rates", "sgd_across_lengths")
    means = np.log(noise["gradient"]).groupby(noise["steps"]).mean()
    slope = np.polyfit(np.log(means.index), means, 1)[0]
    claim = one(claims, quantity="exponent of the gradient in the length of a run")
    assert claim.effect == pytest.approx(slope, abs=1e-3)
    assert claim.low <= -0.25
    assert claim.outcome == "agrees"


def test_outcomes_of_rates_follow_their_tables():
    own, runs = committed.parts("nonconvex_rates"), committed.runs("nonconvex_rates")
    calls, factors, kept, share = (
        committed.table("nonconvex_rates", name)
        for name in ("oracle_calls", "local_factors", "bounds_along_descent", "sums_of_step_sizes")
    )

    steep = Interval(-0.25, -0.3, -0.2)

    def found(calls=calls, factors=factors, kept=kept, across=steep, share=share, grown=()):
        return own["claims"](runs, calls, factors, kept, across, share, dict(grown))

    base = found()
    assert outcomes(base[:3]) == ["agrees", "disagrees", "agrees"]
    assert outcomes(found(calls.assign(arrived=0))[:8]) == ["disagrees"] * 3 + ["agrees"] * 5
    assert outcomes(found(calls.assign(arrived=calls["seeds"]))[:8]) == ["agrees"] * 3 + ["disagrees"] * 5
    assert set(outcomes(found(factors=factors.assign(ratio=1.5))[8:11])) == {"disagrees"}
    assert found(kept=kept.assign(share=1.01))[11].outcome == "disagrees"
    assert found(across=Interval(-0.2, -0.22, -0.18))[12].outcome == "disagrees"
    near = share.assign(ratio=1.0, low=0.9, high=1.1, arrived=share["seeds"])
    assert found(share=near)[13].outcome == "agrees"
    slopes = {"ratio": Interval(0.0, -0.05, 0.05)}
    assert found(grown=slopes)[14].outcome == "agrees"
    assert found(grown={"ratio": Interval(0.5, 0.4, 0.6)})[14].outcome == "disagrees"


# ---- online_regression, coresets, adaptive_sampling -------------------------------------------------------------------


def test_values_over_those_that_are_printed():
    claims = committed.claims("online_regression")
    values = committed.table("online_regression", "beale").set_index("method")
    claim = one(claims, method="full")
    expected = [values.loc["full", name] / 0.00434 for name in ("geometric_mean", "low", "high")]
    assert bounds(claim) == pytest.approx(expected)
    own, runs = committed.parts("online_regression"), committed.runs("online_regression")
    changed = values.reset_index().assign(low=1.0, high=2.0, geometric_mean=1.5)
    compared = committed.table("online_regression", "differences").assign(low=-0.02, high=-0.01, difference=-0.015)
    found = own["claims"](runs, changed, compared)
    assert one(found, method="full").outcome == "disagrees"
    assert {claim.outcome for claim in found if claim.method == "ogr"} == {"agrees"}
    assert {claim.outcome for claim in claims if claim.method == "ogr"} == {"undecided"}


def test_the_error_of_a_subset_is_a_ratio_of_pairs():
    points = committed.table("coresets", "points")
    mlp = points[points["model"] == "mlp"].pivot(index="seed", columns="selection", values="last_layer_error")
    claim = one(committed.claims("coresets"), method="craig", model="mlp", unit="ratio", against="random")
    assert bounds(claim) == pytest.approx(student(mlp["craig"] / mlp["random"]))
    assert claim.outcome == "agrees"
    own, runs = committed.parts("coresets"), committed.runs("coresets")
    pairs = committed.table("coresets", "comparisons")
    larger = own["claims"](runs, pairs.assign(mean=3.0, low=2.0, high=4.0), own["NAMES"])
    assert {claim.outcome for claim in larger if claim.quantity.startswith("error")} == {"disagrees"}
    assert {claim.outcome for claim in larger if claim.unit == "points"} == {"agrees"}
    assert one(larger, method="adacore", against="none").outcome == "agrees"


def test_the_range_over_step_sizes_is_that_of_every_seed():
    runs = committed.runs("adaptive_sampling")
    own = runs[(runs["model"] == "mlp") & (runs["optimizer"] == "sgd")]
    spread = own.groupby("seed")["train_loss"].agg(lambda losses: losses.max() - losses.min())
    adaptive = runs[(runs["model"] == "mlp") & (runs["optimizer"] == "aras")]
    narrow = adaptive.groupby("seed")["train_loss"].agg(lambda losses: losses.max() - losses.min())
    claim = one(committed.claims("adaptive_sampling"), method="aras", model="mlp")
    assert claim.effect == pytest.approx(narrow.mean() / spread.mean())
    assert claim.outcome == ("agrees" if narrow.max() < 0.2 * spread.min() else "disagrees")


def test_outcomes_of_step_sizes_follow_their_tables():
    own, runs = committed.parts("adaptive_sampling"), committed.runs("adaptive_sampling")
    losses, ranges = (committed.table("adaptive_sampling", name) for name in ("losses", "ranges"))

    def found(losses=losses, ranges=ranges):
        return own["claims"](runs, losses, ranges, own["NAMES"], own["MODELS"])

    wide = ranges.assign(largest_range=ranges["largest_range"].mask(ranges["method"] == "ARAS", 9.0))
    assert one(found(ranges=wide), method="aras", model="mlp").outcome == "disagrees"
    lower = ranges.assign(worst=ranges["worst"].mask(ranges["method"] == "SdLBFGS, controlled", 0.1))
    assert one(found(ranges=lower), method="sdlbfgs with control").outcome == "agrees"
    assert one(found(), method="sdlbfgs with control").outcome == "disagrees"
    assert one(found(), method="sdlbfgs").outcome == "agrees"
    sgd = losses["method"] == "SGD"
    for value, outcome in ((0.1, "disagrees"), (9.0, "agrees")):
        changed = losses.assign(**{name: losses[name].mask(sgd, value) for name in ("loss", "low", "high")})
        assert one(found(losses=changed), method="sdlbfgs").outcome == outcome
    wide = losses.assign(
        loss=losses["loss"].mask(sgd, 0.9), low=losses["low"].mask(sgd, 0.0), high=losses["high"].mask(sgd, 9.0)
    )
    assert one(found(losses=wide), method="sdlbfgs").outcome == "undecided"


# ---- decay_and_warmup -------------------------------------------------------------------------------------------------


def test_the_best_weight_decay_hardly_grows_in_the_committed_runs():
    """From the runs alone: the level of the best run, and the loss of the largest level over it, at the first and last batch."""
    runs = committed.runs("decay_and_warmup")
    own = runs[runs["optimizer"] == "adamw"]
    own = own.assign(level=own["config.optimizer.weight_decay"].astype(float))
    for batch in (32, 1024):
        least = own[own["batch"] == batch].groupby("level")["validation_loss"].min()
        assert least.idxmin() in (0.125, 0.5)
        assert least[8.0] / least.min() > 1.5
        table = committed.table("decay_and_warmup", "best_weight_decay")
        row = table[(table["quantity"] == "weight decay") & (table["batch"] == batch)].iloc[0]
        assert 0.125 <= row["value"] <= 0.5


def test_exponents_of_weight_decay_are_least_squares_slopes():
    points, laws = (committed.table("decay_and_warmup", name) for name in ("best_weight_decay", "laws"))
    for _, law in laws.iterrows():
        own = points[(points["quantity"] == law["quantity"]) & (points["times_least"] <= 1.05)]
        slope = stats.linregress(np.log(own["batch"]), np.log(own["value"])).slope
        assert slope == pytest.approx(law["exponent"])
        assert law["low"] < slope < law["high"]
    claim = committed.claims("decay_and_warmup")[0]
    row = laws[laws["quantity"] == "learning rate times weight decay"].iloc[0]
    assert bounds(claim) == pytest.approx((row["exponent"], row["low"], row["high"]))
    assert claim.outcome == "undecided"


def test_outcomes_of_weight_decay_follow_its_tables():
    runs = committed.runs("decay_and_warmup")
    tables = {name: committed.table("decay_and_warmup", name) for name in ("laws", "rules", "warmup_gains")}

    def found(**changed):
        return committed.parts("decay_and_warmup")["claims"](runs, tables | changed)

    laws, rules, gains = tables.values()
    assert found(laws=laws.assign(low=0.9, high=1.1))[0].outcome == "agrees"
    assert found(laws=laws.assign(low=0.6, high=0.9))[0].outcome == "disagrees"
    assert found(rules=rules.assign(low=0.0, high=0.01))[1].outcome == "agrees"
    assert found(rules=rules.assign(low=0.03, high=0.06))[1].outcome == "disagrees"
    assert (
        outcomes(found(warmup_gains=gains.assign(gain_low=0.1, more_low=0.1, rate_ratio_low=1.1))[2:]) == ["agrees"] * 3
    )
    assert found()[1].runs == ((runs["optimizer"] == "adamw") & runs["batch"].isin([32, 1024])).sum() > 0

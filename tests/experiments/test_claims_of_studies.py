"""The claims of the studies about their committed runs: computed independently, with changed tables, and together."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from optbench.analysis.claim_outcomes import STEPS_TREND
from optbench.analysis.claims import EXPONENT, Claim, consistent, table
from optbench.analysis.statistics.search_intervals import SearchInterval
from optbench.analysis.statistics.tuning_gains import Gains
from tests.experiments import committed

STUDIES = sorted(committed.CLAIMS)


def one(claims, **fields):
    """The claim with these fields, of which there is one."""
    found = [claim for claim in claims if all(getattr(claim, name) == value for name, value in fields.items())]
    assert len(found) == 1, found
    return found[0]


def outcomes(claims):
    return [claim.outcome for claim in claims]


@pytest.mark.parametrize("name", STUDIES)
def test_each_claim_says_where_and_on_what_it_rests(name):
    claims = committed.claims(name)
    assert claims
    for claim in claims:
        assert claim.claim.endswith(".")
        assert re.search(r" \d{4}\b", claim.source), claim.source
        if claim.outcome != "not tested":
            assert claim.runs > 0, claim
        if not math.isnan(claim.low):
            assert claim.low <= claim.effect <= claim.high, claim
        if claim.outcome in ("agrees", "disagrees") and claim.unit == "ratio" and claim.effect > 0:
            assert claim.low != 0, claim


def test_the_claims_of_all_studies_do_not_contradict_each_other_without_a_reason():
    rows = pd.concat([table(committed.claims(name), name, "laptop") for name in STUDIES], ignore_index=True)
    known = pd.read_csv(committed.RESULTS / "known_differences.csv", dtype=str)
    pairs = consistent(rows, known)
    assert pairs[pairs["reason"] == ""].to_dict("records") == []


def test_two_studies_of_one_quantity_are_compared():
    """A study with the opposite trend of the steps of K-FAC and momentum is found."""
    fields = {"quantity": STEPS_TREND, "unit": EXPONENT, "method": "nesterov", "against": "kfac"}
    fields |= {"claim": "K-FAC's advantage over momentum grows with the batch.", "source": "Martens & Grosse 2015"}
    other = Claim(**fields, outcome="disagrees", effect=-0.5, low=-0.7, high=-0.3, estimand="W")
    told = Claim(**fields, outcome="agrees", effect=0.5, low=0.3, high=0.7, estimand="S")
    rows = pd.concat([table([told], "steps_to_target"), table([other], "second_order")], ignore_index=True)
    assert consistent(rows)["contradiction"].tolist() == ["opposite trends"]


# ---- optimizer_comparison ---------------------------------------------------------------------------------------------


def test_outcomes_of_the_comparison_follow_its_tables():
    own, runs = committed.parts("optimizer_comparison"), committed.runs("optimizer_comparison")
    ranks = pd.DataFrame(
        [("all", "adam", math.nan), ("all", "sgd", -1.0), ("all", "momentum", -0.5), ("p", "adam", 0), ("q", "sgd", 0)],
        columns=["problem", "optimizer", "behind_low"],
    )
    table = pd.DataFrame([["adam", 0.2, 0.1, 0.3, -0.9, -1.2, -0.6], ["sgd", 1.5, 1.2, 1.8, 0.0, -0.1, 0.1]])
    table.columns = ["method", "gain", "low", "high", "behind", "behind_low", "behind_high"]
    failures = pd.DataFrame(
        [("momentum", "sgd", "p", 0.1, -0.2, 0.4, False), ("momentum", "sgd", "q", -0.1, -0.4, 0.2, False)],
        columns=["container", "contained", "problem", "difference", "low", "high", "failed"],
    )

    def found(ranks=ranks, table=table, middle=(1.5, 1.2, 1.8), failures=failures):
        return own["claims"](runs, ranks, Gains(table, SearchInterval(*middle)), failures)

    many, first, gain, adam, momentum, *others = found()
    assert outcomes([many, first, gain, adam, momentum]) == ["agrees"] * 5
    assert outcomes(others) == ["not tested"] * 3
    assert (gain.effect, gain.low, gain.estimand, adam.effect) == (1.5, 1.2, "S", 0.2)
    assert (momentum.effect, momentum.condition, momentum.estimand) == (-0.1, "the worst problem", "W")
    assert found(ranks.assign(behind_low=1.0))[0].outcome == "disagrees"
    assert found(ranks.assign(optimizer="kfac"))[1].outcome == "disagrees"
    assert found(middle=(0.5, 0.2, 0.8))[2].outcome == "disagrees"
    assert found(middle=(1.5, 0.2, 2.8))[2].outcome == "undecided"
    assert found(table=table.assign(behind_low=0.1, behind_high=0.4))[3].outcome == "disagrees"
    assert found(failures=failures.assign(low=-0.6))[4].outcome == "undecided"
    assert found(failures=failures.assign(failed=[False, True]))[4].outcome == "disagrees"


def test_ranks_and_gains_of_the_comparison_are_found_again():
    """From the committed runs alone: winners by seed 0, their ranks by new seeds, and intervals by a bootstrap of its own."""
    runs = committed.runs("optimizer_comparison")
    methods, problems = (sorted(runs[name].unique()) for name in ("optimizer", "model"))
    assert (len(methods), len(problems)) == (26, 6)
    chosen = np.full((len(methods), len(problems), 10), np.inf)
    first, new = chosen.copy(), np.full((*chosen.shape, 5), np.nan)
    for row in runs.itertuples():
        place = methods.index(row.optimizer), problems.index(row.model), int(row.trial)
        validation, test = (row.validation_loss, row.test_loss) if row.state == "done" else (np.inf, np.inf)
        if row.seed == 0:
            chosen[place], first[place] = validation, test
        else:
            new[(*place, int(row.seed) - 1)] = test
    winners = chosen.argmin(2)
    reached = np.take_along_axis(new, winners[..., None, None], 2)[:, :, 0].mean(2)
    assert not np.isnan(reached).any()  # all winners have new seeds
    ranks = stats.rankdata(reached, axis=0).mean(1)
    table = committed.table("optimizer_comparison", "ranks")
    table = table[table["problem"] == "all"].set_index("optimizer").loc[methods]
    assert ranks == pytest.approx(table["rank"].to_numpy())

    generator, repetitions = np.random.default_rng(5), 2000
    drawn, order = np.zeros((repetitions, len(methods))), np.arange(len(methods))[None, :]
    # Trial number i is one draw of the random numbers for all methods and problems.
    trials = generator.integers(10, size=(repetitions, 1, 10))
    trials = np.broadcast_to(trials, (repetitions, len(methods), 10))
    for _ in problems:
        problem = generator.integers(len(problems), size=(repetitions, 1))
        best = chosen[order[..., None], problem[..., None], trials].argmin(2)
        best = np.take_along_axis(trials, best[..., None], 2)[..., 0]
        seeds = np.broadcast_to(generator.integers(5, size=(repetitions, 1, 5)), (repetitions, len(methods), 5))
        again = np.take_along_axis(new[order, problem, best], seeds, 2).mean(2)
        drawn += stats.rankdata(np.where(np.isnan(again), first[order, problem, best], again), axis=1) / len(problems)
    leader = ranks.argmin()
    errors = (drawn - drawn[:, [leader]]).std(0, ddof=1)
    lows = ranks - ranks[leader] - stats.t.ppf(0.975, 5) * errors
    others = np.arange(len(methods)) != leader
    assert lows[others] == pytest.approx(table["behind_low"].to_numpy()[others], abs=0.6)
    share = one(committed.claims("optimizer_comparison"), claim="Many tuned methods are not told apart from the best.")
    assert (lows[others] > 0).mean() == pytest.approx(share.effect, abs=0.08)

    spreads = [stats.iqr(column[np.isfinite(column)]) for column in reached.T]
    with np.errstate(invalid="ignore"):
        gains = (new[:, :, 0].mean(2) - reached) / spreads
    gains = np.where(np.isfinite(gains), gains, np.nan)
    middle = one(committed.claims("optimizer_comparison"), claim="Tuning gains as much as the choice of the method.")
    assert np.median(np.nanmean(gains, 1)) == pytest.approx(middle.effect)


# ---- second_order -----------------------------------------------------------------------------------------------------


def test_the_scripts_of_second_order_state_their_claims():
    claims = committed.claims("second_order")
    ends = pd.read_csv(committed.RESULTS / "second_order" / "saddle.csv").pivot(
        index="seed", columns="method", values="total"
    )
    logs = np.log(ends["saddle-free Newton"] / ends["damped Newton"])
    claim = one(claims, against="damped Newton")
    assert claim.effect == pytest.approx(math.exp(logs.mean()))
    bounds = stats.t.interval(0.95, 9, logs.mean(), logs.std(ddof=1) / math.sqrt(10))
    assert (claim.low, claim.high) == pytest.approx(np.exp(bounds))
    assert one(claims, method="damped Newton").outcome == "disagrees"
    assert one(claims, method="saddle-free Newton", against="").outcome == "agrees"
    assert one(claims, method="LM, all three", against="L-BFGS").outcome == "undecided"


def test_outcomes_of_the_scripts_follow_their_tables():
    module = committed.imported("second_order", "script_claims")
    folder = committed.RESULTS / "second_order"
    ends, curves = (pd.read_csv(folder / f"{name}.csv") for name in ("saddle", "saddle_curves"))
    stays = ends.assign(smallest_eigenvalue=-0.14 - 0.001 * ends["seed"])
    assert outcomes(module.of_saddle(stays, curves)) == ["disagrees", "agrees", "agrees"]
    errors = pd.read_csv(folder / "regression.csv")
    worse = errors.assign(train_mse=errors["train_mse"].where(errors["method"] != module.BEST, 9.0))
    assert set(outcomes(module.of_regression(worse))) == {"disagrees"}
    summary = pd.read_csv(folder / "logistic.csv")
    slow = summary.assign(**{module.TOLERANCE: summary[module.TOLERANCE].mask(summary["method"] == "SCoRe-GGN", 500)})
    assert module.of_logistic(slow)[0].outcome == "disagrees"


# ---- hessian_directions and batch_hessian -----------------------------------------------------------------------------


def test_the_pooled_trace_is_a_weighted_mean_of_each_seed():
    slices = committed.table("hessian_directions", "slices")
    weights = slices["ratio_error"] ** -2
    pooled = (weights * slices["ratio"]).groupby(slices["seed"]).sum() / weights.groupby(slices["seed"]).sum()
    claim = committed.claims("hessian_directions")[-1]
    assert claim.outcome == "agrees"
    assert claim.effect == pytest.approx(pooled.mean())
    assert (claim.low, claim.high) == pytest.approx(
        stats.t.interval(0.95, len(pooled) - 1, pooled.mean(), pooled.sem())
    )


def test_outcomes_of_slices_follow_their_table():
    own, runs = committed.parts("hessian_directions"), committed.runs("hessian_directions")
    slices = committed.table("hessian_directions", "slices")

    def found(**changes):
        return outcomes(own["claims"](runs, slices.assign(**changes)))

    assert found() == ["disagrees", "undecided", *["agrees", "not tested"] * 2, "agrees"]
    assert found(saddle_rate=0.5)[::2] == [*["disagrees"] * 3, "agrees"]
    assert found(predicted_saddle_rate=0.9)[1:6:2] == ["disagrees"] * 3
    assert found(bottom=1.0)[:6:2] == ["not tested"] * 3
    assert found(ratio=2.0 + 0.01 * slices["seed"])[-1] == "disagrees"


def test_the_exponents_of_the_largest_rates_are_slopes_of_each_seed():
    rates = committed.table("batch_hessian", "maximal_learning_rates")
    own = rates[(rates["point"] == "after 81 steps") & (rates["batch"] <= 16)]
    slopes = [np.polyfit(np.log(one["batch"]), np.log(one["sgd"]), 1)[0] for _, one in own.groupby("seed")]
    claim = one(committed.claims("batch_hessian"), method="sgd", condition="batch=1:16, after 81 steps")
    assert claim.effect == pytest.approx(np.mean(slopes))
    # The accepted slopes are 0.75 to 1.25.
    for low, high, outcome in ((0.8, 1.2, "agrees"), (0.7, 1.1, "undecided"), (0.4, 0.7, "disagrees")):
        parts, runs = committed.parts("batch_hessian"), committed.runs("batch_hessian")
        tables = [committed.table("batch_hessian", name) for name in ("critical_batches", "exponents")]
        changed = tables[1].assign(exponent=(low + high) / 2, low=low, high=high)
        found = parts["claims"](runs, tables[0], changed, rates)
        assert one(found, method="sgd", condition="batch=1:16, after 81 steps").outcome == outcome
    near = tables[0].assign(b_star_isotropic=1.1 * tables[0]["b_star_fitted_from_8"] * (1 + 0.01 * tables[0]["seed"]))
    found = parts["claims"](runs, near, tables[1], None)
    assert {claim.outcome for claim in found if claim.quantity.startswith("b*")} == {"agrees"}
    assert found[-1].outcome == "not tested"


def test_the_critical_batches_follow_from_the_committed_runs():
    """Of the rates that all seeds have trained the one with the least mean of steps, and a least-squares fit to these means."""
    runs = committed.runs("steps_to_target")
    counts = runs.groupby(["optimizer", "batch", "base_learning_rate"])["steps_to_target"].agg(
        ["size", "mean", "count"]
    )
    whole = counts[(counts["size"] == 5) & (counts["count"] == 5)]
    best = whole["mean"].groupby(["optimizer", "batch"]).min()
    published = committed.table("steps_to_target", "critical_batch").set_index(["target", "optimizer"])
    claims = committed.claims("steps_to_target")
    found = {}
    for name, means in best.groupby("optimizer"):
        batches, steps = means.index.get_level_values("batch").to_numpy(float), means.to_numpy()
        assert batches.tolist() == [1, 4, 16, 64, 256, 1024]

        def misses(at, batches=batches, steps=steps):
            return at[0] + np.log1p(np.exp(at[1]) / batches) - np.log(steps)

        least, found[name] = np.exp(optimize.least_squares(misses, [np.log(steps.min()), np.log(30)]).x)
        row = published.loc[(0.8, name)]
        # The table of runs has the first evaluation at the target, up to a tenth later than the time between two evaluations.
        assert found[name] == pytest.approx(row["critical_batch"], rel=0.04)
        assert 1 < least / row["steps_min"] < 1.1
    for name in ("nesterov", "kfac", "adam", "lamb"):
        claim = one(claims, method=name, against="sgd", quantity="critical batch")
        assert claim.effect == pytest.approx(found[name] / found["sgd"], rel=0.06)
        assert claim.outcome == "agrees"

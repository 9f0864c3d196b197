"""The claims of the studies about their committed runs: computed independently, with changed tables, and together."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.analysis.claims import Claim, consistent, table
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
    first = one(committed.claims("steps_to_target"), unit="exponent")
    fields = {name: getattr(first, name) for name in ("quantity", "unit", "method", "against", "claim", "source")}
    other = Claim(**fields, outcome="disagrees", effect=-0.5, low=-0.7, high=-0.3, estimand="W")
    told = Claim(**fields, outcome="agrees", effect=0.5, low=0.3, high=0.7, estimand="S")
    rows = pd.concat([table([told], "steps_to_target"), table([other], "second_order")], ignore_index=True)
    assert consistent(rows)["contradiction"].tolist() == ["opposite trends"]


# ---- steps_to_target --------------------------------------------------------------------------------------------------


def test_k_facs_advantage_is_that_of_restricted_means():
    """The least mean over seeds of the steps of a trial, half of the distance of evaluations before the crossing."""
    runs = committed.runs("steps_to_target")
    means = {}
    for name in ("nesterov", "kfac"):
        own = runs[(runs["optimizer"] == name) & (runs["batch"] == 16)]
        steps = (own["steps_to_target"] - 3).fillna(600).where(own["status"] != "failed")
        means[name] = steps.groupby(own["trial"]).mean().min()
    claim = one(committed.claims("steps_to_target"), condition="batch=16", against="kfac")
    assert claim.effect == pytest.approx(means["nesterov"] / means["kfac"], rel=0.02)
    assert (claim.unit, claim.estimand, claim.runs) == ("ratio of steps", "S", 120)


def test_outcomes_of_steps_follow_their_tables():
    own, runs = committed.parts("steps_to_target"), committed.runs("steps_to_target")
    tables = dict(committed.findings("steps_to_target").tables)
    tables |= {"noise_scale": committed.table("steps_to_target", "noise_scale")}

    def found(**changes):
        return own["claims"](runs, tables | changes, 0.78)

    unknown = found(critical_batch=tables["critical_batch"].assign(not_identified="wide"))
    assert {one(unknown, method=name, against="sgd").outcome for name in ("nesterov", "adam")} == {"undecided"}
    identified = tables["critical_batch"].assign(not_identified="")
    ratios = tables["critical_batch_ratios"]
    assert one(found(critical_batch=identified), method="adam", against="sgd").outcome == "agrees"
    lower = ratios.assign(ratio=0.5, low=0.4, high=0.6)
    assert one(found(critical_batch=identified, critical_batch_ratios=lower), method="kfac").outcome == "disagrees"
    trend = tables["advantage"]
    falls = trend.assign(**{name: -abs(trend[name]) for name in ("ratio", "low", "high")}).assign(low=-1.0, high=-0.1)
    assert one(found(advantage=falls), unit="exponent").outcome == "disagrees"
    order = pd.DataFrame({"optimizer": "sgd", "batch_low": [16, 32, 64], "batch_high": [32, 64, 128],
                          "regime": ["perfect", "diminishing", "maximal"]})  # fmt: skip
    assert found(regimes=order)[0].outcome == "agrees"
    assert found(regimes=order.assign(regime=order["regime"].to_numpy()[::-1]))[0].outcome == "disagrees"
    near = identified.assign(critical_batch=100.0, critical_batch_low=70.0, critical_batch_high=150.0)
    scale = one(found(critical_batch=near), source="McCandlish et al. 2018")
    each = tables["noise_scale"].groupby("batch")["noise_scale"].median()
    assert (scale.effect, scale.low, scale.high) == pytest.approx(
        (each.median() / 100, each.min() / 150, each.max() / 70)
    )
    far = identified.assign(critical_batch=1.0, critical_batch_low=0.9, critical_batch_high=1.1)
    assert one(found(critical_batch=far), source="McCandlish et al. 2018").outcome == "disagrees"


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
    assert (momentum.effect, momentum.condition, momentum.estimand) == (-0.1, "q", "W")
    assert found(ranks.assign(behind_low=1.0))[0].outcome == "disagrees"
    assert found(ranks.assign(optimizer="kfac"))[1].outcome == "disagrees"
    assert found(middle=(0.5, 0.2, 0.8))[2].outcome == "disagrees"
    assert found(middle=(1.5, 0.2, 2.8))[2].outcome == "undecided"
    assert found(table=table.assign(behind_low=0.1, behind_high=0.4))[3].outcome == "disagrees"
    assert found(failures=failures.assign(low=-0.6))[4].outcome == "undecided"
    assert found(failures=failures.assign(failed=[False, True]))[4].outcome == "disagrees"


# ---- landscape --------------------------------------------------------------------------------------------------------


def test_the_rise_along_the_line_is_a_ratio_of_seeds():
    minima = committed.table("landscape", "minima")
    both = minima[minima["weight_decay"] == 0].pivot(index="seed", columns="batch", values="interpolation_rise")
    logs = np.log(both[1024] / both[64])
    width = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    claim = committed.claims("landscape")[0]
    assert claim.outcome == "agrees"
    bounds = [math.exp(logs.mean() + sign * width) for sign in (0, -1, 1)]
    assert (claim.effect, claim.low, claim.high) == pytest.approx(bounds)


def test_outcomes_of_the_landscape_follow_its_tables():
    own, runs = committed.parts("landscape"), committed.runs("landscape")
    differences = committed.table("landscape", "differences")
    correlations = own["_correlations"](committed.table("landscape", "minima"))
    # The condition of the reversal is that weight decay makes the weights of the small batch the smaller ones.
    assert outcomes(committed.claims("landscape")[:3]) == ["agrees", "not tested", "not tested"]
    smaller = differences.copy()
    smaller.loc[smaller["measure"] == "norm", ["ratio", "low", "high"]] = 1.5, 1.4, 1.6
    found = own["claims"](runs, smaller, correlations)
    assert outcomes(found[:3]) == ["agrees", "disagrees", "disagrees"]
    line = smaller["measure"] == "interpolation_rise"
    smaller.loc[line, ["ratio", "low", "high"]] = 0.5, 0.4, 0.6
    found = own["claims"](runs, smaller, correlations)
    assert outcomes(found[:3]) == ["disagrees", "agrees", "agrees"]
    assert found[-1].outcome == "undecided"
    assert own["claims"](runs, differences, correlations.assign(p_holm=0.01))[-1].outcome == "agrees"


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

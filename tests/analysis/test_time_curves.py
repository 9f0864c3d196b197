"""Steps at each batch's own best rate, against closed forms: the choice, the critical batch, the ratios, and censored runs."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.time_comparisons import (
    critical_batch_of,
    critical_batch_ratio_of,
    slopes_of,
    time_ratios_of,
)
from optbench.analysis.laws.time_curves import TimeCurves, horizons_of, time_curves
from optbench.analysis.statistics.targets import times_to_target
from optbench.analysis.study import Study
from optbench.store import RunLock
from optbench.sweep.search import reading
from optbench.sweep.search.asking import Asker, take_searched
from tests.search.searched import start

WHOLE = SimpleNamespace(plan=SimpleNamespace(information=dict))
BATCHES, RATES = (16, 64, 256, 1024), (0.1, 0.2, 0.4)


def frame(steps, optimizer="sgd", **changes):
    """Runs with times from a function of batch, rate and seed; None is a run that has not ended."""
    rows = []
    for batch in changes.get("batches", BATCHES):
        for rate in RATES:
            for seed in range(changes.get("seeds", 3)):
                time = steps(batch, rate, seed)
                row = {
                    "run_id": f"{optimizer}-{batch}-{rate}-{seed}",
                    "optimizer": optimizer,
                    "batch": batch,
                    "seed": seed,
                }
                row |= {"base_learning_rate": rate, "status": "pending" if time is None else "done"}
                rows.append(row | {"steps_to_target": math.nan if time is None else float(time)})
    return pd.DataFrame(rows)


def law(least, critical, best=0.2, spread=0.02):
    """S_min (1 + B_c / B) at the rate ``best``, twice as many at the others."""

    def steps(batch, rate, seed):
        return least * (1 + critical / batch) * (1 if rate == best else 2) * (1 + spread * (seed - 1))

    return steps


def curves(*frames, horizon=10_000):
    return time_curves(WHOLE, pd.concat(frames, ignore_index=True), dict.fromkeys(map(float, BATCHES), horizon))


def test_the_critical_batch_of_the_best_rates_is_found():
    found = curves(frame(law(50, 64)))["sgd"]
    assert found.rates[found.chosen].tolist() == [0.2] * 4
    assert [found.edge(b) for b in range(4)] == [""] * 4
    fit = critical_batch_of(found)
    assert fit.batch.estimate == pytest.approx(64, rel=1e-3)
    assert fit.steps_min.estimate == pytest.approx(50, rel=1e-3)
    assert fit.examples_min.estimate == pytest.approx(3200, rel=1e-3)
    assert fit.steps[16.0].estimate == pytest.approx(250)
    # All seeds of a resample are 2 % apart at most, at all batches together: B_c does not move, and S does.
    assert fit.batch.high == pytest.approx(64, rel=1e-3)
    assert (fit.steps[16.0].low, fit.steps[16.0].high) == (pytest.approx(245), pytest.approx(255))
    assert fit.not_identified == ""


def test_ratios_of_steps_and_of_critical_batches_and_their_trend():
    found = curves(frame(law(50, 64)), frame(law(20, 512, best=0.4), "kfac"))
    assert found["kfac"].edge(0) == "highest"
    ratios = time_ratios_of(found["sgd"], found["kfac"])
    expected = {batch: 2.5 * (1 + 64 / batch) / (1 + 512 / batch) for batch in BATCHES}
    assert {batch: ratio.estimate for batch, ratio in ratios.ratios.items()} == pytest.approx(expected)
    slope = np.polyfit(np.log(BATCHES), np.log(list(expected.values())), 1)[0]
    assert ratios.trend.estimate == pytest.approx(slope)
    # The same seeds are drawn for both, so that what they have in common cancels.
    assert ratios.trend.high - ratios.trend.low < 1e-9
    assert critical_batch_ratio_of(found["kfac"], found["sgd"]).estimate == pytest.approx(8, rel=1e-3)


def test_slopes_say_what_is_saved_in_steps_and_spent_in_examples():
    row = slopes_of(curves(frame(law(50, 64)))["sgd"]).iloc[0]
    saved = (1 + 64 / 16) / (1 + 64 / 64)
    assert row["steps_saved"] == pytest.approx(saved)
    assert row["examples_spent"] == pytest.approx(4 / saved)
    assert row["slope"] == pytest.approx(-math.log(saved) / math.log(4))
    assert row["regime"] == "diminishing"


def test_the_choice_is_made_again_in_every_resample():
    # Means 20 and 21; with the second seed three times it is the second rate, of 12.
    times = {0.1: [10, 20, 30], 0.2: [30, 12, 21], 0.4: [50, 50, 50]}
    found = curves(frame(lambda batch, rate, seed: times[rate][seed], batches=(16,)))["sgd"]
    assert found.rates[found.chosen[0]] == 0.1
    assert found.least()[0, 0] == pytest.approx(20)
    assert found.least(resampled=True).min() == pytest.approx(10)
    assert 12 in found.least(resampled=True).round(6)
    assert (found.rate(0).low, found.rate(0).high) == (0.1, 0.2)


def test_runs_that_do_not_reach_the_target_count_as_the_budget_of_their_batch():
    def steps(batch, rate, seed):
        return math.inf if batch == 1024 or (rate == 0.2 and seed == 0) else 100 if rate == 0.2 else 150

    timed = frame(steps)
    timed.loc[timed["steps_to_target"].eq(math.inf) & timed["batch"].eq(64), "status"] = "diverged"
    found = time_curves(WHOLE, timed, {16.0: 200, 64.0: 1000, 256.0: 120, 1024.0: 120})["sgd"]
    # (100 + 100 + 200) / 3 < 150, but (100 + 100 + 1000) / 3 > 150; at 256 a time of 150 is beyond the budget.
    assert found.rates[found.chosen[:3]].tolist() == [0.2, 0.1, 0.2]
    np.testing.assert_allclose(found.expected[:3, 1], [400 / 3, 400, 320 / 3])
    np.testing.assert_allclose(found.expected[:3, 0], [150, 150, 120])
    assert found.is_reached.tolist() == [True, True, True, False]
    assert found.chosen[3] == -1
    assert np.isnan(found.rate(3).estimate)
    fit = critical_batch_of(found)
    assert fit.not_reached == (1024.0,)
    assert fit.bounds == (16.0, 256.0)  # two of three runs at the chosen rate


def test_equal_means_are_told_apart_by_the_worst_seed():
    times = {0.1: [10, 20, 60], 0.2: [30, 30, 30], 0.4: [30, 30, 30]}
    found = curves(frame(lambda batch, rate, seed: times[rate][seed], batches=(16,)))["sgd"]
    assert found.candidates[0].tolist() == [1, 2]


def test_times_that_the_evaluations_do_not_resolve_are_said():
    timed = frame(law(2, 64)).assign(steps_before=lambda runs: runs["steps_to_target"] - 0.5)
    timed["steps_after"] = timed["steps_before"] + 1
    fit = critical_batch_of(curves(timed)["sgd"])
    assert fit.unresolved == (64.0, 256.0, 1024.0)
    assert fit.ends[0] > fit.fit.batch > fit.ends[1]


def test_one_seed_has_no_intervals():
    found = curves(frame(law(50, 64, spread=0), seeds=1))["sgd"]
    fit = critical_batch_of(found)
    assert fit.batch.estimate == pytest.approx(64, rel=1e-3)
    assert math.isnan(fit.batch.low)
    assert math.isnan(found.rate(0).low)


def test_runs_that_have_not_ended_have_no_part():
    found = curves(frame(lambda batch, rate, seed: None if seed == 2 else 100))
    assert found["sgd"].times(0, 0).tolist() == [100, 100]
    assert curves(frame(lambda batch, rate, seed: math.inf)) == {}


WORDS = [
    "dataset=digits",
    "model=mlp",
    "tracker=none",
    "budget.epochs=2",
    "optimizer=sgd,adam",
    "batch=32,128",
    "seed=range(3)",
]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of 14 of 60 cells for the steps to an accuracy of 0.5, which are least at the middle of five rates."""
    words = [*WORDS, "optimizer.learning_rate=0.001,0.0031622776,0.01,0.031622776,0.1"]
    choice = {"name": "adaptive", "budget": 14, "confirm": 2, "goal": "validation_accuracy", "target": 0.5}
    plan = start(tmp_path_factory.mktemp("times"), words, choice=choice)
    asker = Asker(reading.Search.of(plan))
    for claim in take_searched(asker, 0, 1, lambda: False, lambda asked: None):
        claim.lock.release()
        run, config = claim.directory, claim.directory.config()
        rate, batch, seed = config["optimizer"]["learning_rate"], config["batch"], config["seed"]
        steps = (3 + seed) * 2 ** abs(math.log10(rate) + 2) * (1 if batch == 128 else 4)
        # A straight line from the guess of ten classes, evaluated at four steps.
        at = [2, 6, 9, 16] if batch == 128 else [8, 24, 36, 60]
        with RunLock(run.lock):
            for step in at:
                accuracy = 0.1 + 0.4 * step / steps
                run.append(
                    {"event": "evaluation", "step": step, "samples": 0, "seconds": 0.0, "validation_accuracy": accuracy}
                )
            summary = {"optimizer": config["optimizer"]["name"], "batch": batch, "seed": seed, "steps": at[-1]}
            run.finish(summary | {"base_learning_rate": rate, "classes": 10, "status": "done"}, "done")
    return Study(plan)


def test_the_part_that_a_search_trained_is_as_it_is_and_the_rest_is_drawn(searched):
    history = searched.histories(["event", "validation_accuracy", "step", "samples", "seconds"])
    timed = times_to_target(searched.runs, history, 0.5)
    horizons = horizons_of(searched, history)
    search = reading.Search.of(searched.plan)
    # The goal of the search and the analysis interpolate alike.
    for each in search.seen(search.record()):
        assert each.horizon == horizons[float(each.pick.cell["batch"])]
    goals = sorted(each.value for each in search.seen(search.record()) if not each.censored)
    times = timed["steps_to_target"].to_numpy()
    np.testing.assert_allclose(goals, np.sort(times[np.isfinite(times)]), rtol=1e-12)
    found = time_curves(searched, timed, horizons)
    assert set(found) == {"sgd", "adam"}
    drawn = 0
    for name, curves_ in found.items():
        assert isinstance(curves_, TimeCurves)
        assert curves_.rates[curves_.chosen] == pytest.approx([0.01, 0.01])
        for b in range(2):
            known = np.unique(curves_.tables[:, b, 2].round(9))
            if len(curves_.times(b, 2)) == 3:
                assert known == pytest.approx([4 * (4 if b == 0 else 1)])
            drawn += sum(len(np.unique(curves_.tables[:, b, u].round(9))) > 20 for u in range(5))
        assert name in ("sgd", "adam")
    assert drawn > 4

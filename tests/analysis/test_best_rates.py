"""The best rate of each condition and the results there, against resamples that are listed by hand, scipy, and known lattices."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.analysis.laws.best_rates import (
    BestRate,
    Draws,
    best_rates,
    difference_of_searches,
    interval_of,
    paired_difference,
)
from optbench.analysis.study import Study
from optbench.store import RunLock
from optbench.sweep.search import reading
from optbench.sweep.search.asking import Asker, take_searched
from tests.search.searched import start

WHOLE = SimpleNamespace(plan=SimpleNamespace(information=dict))
RATES = (0.1, 0.2, 0.4)


def frame(validation, test, **names):
    """Runs of one condition from tables of rates x seeds; NaN: no run, infinity: diverged."""
    rows = []
    for rate, losses, accuracies in zip(RATES, validation, test, strict=False):
        for seed, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
            if math.isnan(loss):
                continue
            row = {"run_id": f"{names}-{rate}-{seed}", "status": "diverged" if math.isinf(loss) else "done"}
            row |= {"base_learning_rate": rate, "seed": seed, "batch": 32, "optimizer": "sgd", **names}
            values = {"validation_loss": loss, "test_accuracy": accuracy}
            rows.append(row | (values if math.isfinite(loss) else {}))
    return pd.DataFrame(rows)


def found_in(*frames):
    runs = pd.concat(frames, ignore_index=True)
    return best_rates(WHOLE, ["name", "batch"], runs, "validation_loss", ["test_accuracy"])


def test_the_choice_is_made_again_in_every_resample():
    # Means 0.5 and 0.6: the first rate is chosen. With seed 1 twice it is the second, of accuracy 0.6.
    [best] = found_in(frame([[0.2, 0.8], [0.7, 0.5]], [[0.9, 0.7], [0.8, 0.6]], name="a"))
    assert (best.rate, best.chosen, best.at_edge) == (0.1, 0, True)
    assert best.found("test_accuracy").to_dict() == {0: 0.9, 1: 0.7}
    drawn = best.searched("test_accuracy")
    assert drawn.tables == pytest.approx([0.8])
    shares = pd.Series(np.round(drawn.resampled, 9)).value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({0.8: 0.5, 0.9: 0.25, 0.6: 0.25}, abs=0.06)
    assert (best.interval.low, best.interval.high) == (0.1, 0.2)


def test_a_rate_at_which_a_seed_diverges_is_not_chosen():
    [best] = found_in(frame([[0.5, 0.5], [0.1, math.inf]], [[0.7, 0.7], [0.9, math.nan]], name="a"))
    assert best.rate == 0.1
    carried = best.searched("test_accuracy", 1, best)
    assert carried.tables[0] == -math.inf or carried.tables[0] < 0.7  # the error of the diverged run counts
    assert np.isnan(best.searched("test_accuracy", 2, best).tables).all() == (len(best.rates) == 2)


def test_differences_are_paired_by_seed():
    generator = np.random.default_rng(0)
    common = generator.normal(0, 0.05, 8)
    losses = np.array([[0.5] * 8, [0.4] * 8, [0.6] * 8])
    tables = {name: 0.8 + gain + common + generator.normal(0, 0.002, (3, 8)) for name, gain in (("a", 0.01), ("b", 0))}
    first, second = found_in(*(frame(losses, table, name=name) for name, table in tables.items()))
    expected = stats.ttest_rel(tables["a"][1], tables["b"][1]).confidence_interval(0.95)
    settings, seeds = paired_difference(first.found("test_accuracy"), second.found("test_accuracy"))
    assert seeds == 8
    assert (settings.low, settings.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    # The resampled seeds are the same ones in both grids, so that their common noise cancels.
    drawn = difference_of_searches(first.searched("test_accuracy"), second.searched("test_accuracy"), 1.0)
    assert drawn.estimate == pytest.approx(settings.estimate)
    assert drawn.high - drawn.low < 0.006
    alone = interval_of(first.searched("test_accuracy"), 1.0)
    assert alone.high - alone.low > 0.03
    assert interval_of(first.searched("test_accuracy"), 2.0).high - alone.estimate == pytest.approx(
        2 * (alone.high - alone.estimate)
    )


def test_a_rate_is_carried_to_another_condition_by_steps_of_the_line():
    small = frame([[0.4, 0.4], [0.5, 0.5], [0.6, 0.6]], [[0.9] * 2, [0.8] * 2, [0.7] * 2], name="small")
    large = frame([[0.9, 0.9], [0.8, 0.8], [0.7, 0.7]], [[0.3] * 2, [0.4] * 2, [0.6] * 2], name="large")
    first, second = found_in(large, small)
    assert (first.key["name"], first.rate, second.rate) == ("large", 0.4, 0.1)
    for steps, accuracy in ((0, 0.3), (1, 0.4), (2, 0.6), (3, math.nan)):
        np.testing.assert_allclose(first.searched("test_accuracy", steps, second).tables, accuracy)
    interval = interval_of(first.searched("test_accuracy", 3, second), 1.0)
    assert (math.isnan(interval.estimate), interval.undefined) == (True, 1)
    [other] = found_in(frame([[0.5, 0.5]], [[0.5, 0.5]], name="other"))
    with pytest.raises(ValueError, match="same line"):
        first.searched("test_accuracy", 0, other)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """An adaptive search of 20 of 36 cells and three seeds at each chosen rate.

    The loss is least at the middle rate, where the accuracy is 0.7 or (batch 32) 0.8.
    """
    plan = start(
        tmp_path_factory.mktemp("best_rates"), choice={"name": "adaptive", "budget": 20, "confirm": 3, "round": 4}
    )
    asker = Asker(reading.Search.of(plan))
    for claim in take_searched(asker, 0, 1, lambda: False, lambda asked: None):
        claim.lock.release()
        run = claim.directory
        config = run.config()
        rate, batch, seed = config["optimizer"]["learning_rate"], config["batch"], config["seed"]
        off = abs(math.log10(rate) + 2)
        with RunLock(run.lock):
            summary = {"optimizer": config["optimizer"]["name"], "batch": batch, "seed": seed, "steps": 42}
            summary |= {"validation_loss": 0.5 + 0.2 * off + 0.001 * seed, "base_learning_rate": rate}
            summary |= {"test_accuracy": 0.7 + 0.1 * (batch == 32) - 0.2 * off + 0.002 * seed, "status": "done"}
            run.finish(summary, "done")
    return Study(plan)


def test_the_part_that_a_search_trained_is_as_it_is_and_the_rest_is_drawn(searched):
    found = best_rates(searched, ["optimizer", "batch"], searched.runs, "validation_loss", ["test_accuracy"])
    assert [(one.key["optimizer"], one.key["batch"]) for one in found] == [
        (name, batch) for name in ("adam", "sgd") for batch in (32, 128)
    ]
    assert 20 < sum(len(one.runs) for one in found) < 36
    varied = 0
    for one in found:
        assert one.rate == 0.01
        assert len(one.found("test_accuracy")) == 3
        top = 0.8 if one.key["batch"] == 32 else 0.7
        for place, rate in enumerate(one.rates):
            trained = one.at("test_accuracy", place)
            tables = one.draws["test_accuracy"].tables[:, place]
            if len(trained) == 3:
                accuracy = top - 0.2 * abs(math.log10(rate) + 2) + 0.002
                np.testing.assert_allclose(1 - tables, accuracy, atol=1e-9)
            else:
                varied += 1
                assert len(np.unique(tables.round(4))) > 20
        assert interval_of(one.searched("test_accuracy"), one.stretch).estimate == pytest.approx(top + 0.002, abs=1e-6)
    assert varied > 0
    small, large = found[:2]
    interval = difference_of_searches(small.searched("test_accuracy"), large.searched("test_accuracy"), small.stretch)
    assert interval.low <= 0.1 <= interval.high
    assert interval.estimate == pytest.approx(0.1, abs=1e-6)


def test_a_rate_that_diverges_in_a_draw_has_the_price_that_it_has_for_the_search():
    """By hand: the second rate has 0.4 in nine draws and diverges in one, at 4 times the first loss or the worst mean."""
    tables = np.array([[[0.9, 0.4]] * 9 + [[0.9, math.inf]]])[0]
    draws = Draws(tables, tables)
    frame_ = frame([[0.9, 0.4]], [[0.5, 0.5]])
    # (9 x 0.4 + 4 x 1) / 10 = 0.76 < 0.9, and (9 x 0.4 + 4 x 2.3) / 10 = 1.28 > 0.9.
    for first, expected in ((1.0, 1), (2.3, 0), (math.nan, 1)):
        best = BestRate({}, np.array([0.1, 0.2]), draws, {}, frame_, first=first)
        assert best.chosen == expected, first

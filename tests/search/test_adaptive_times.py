"""search=adaptive for a time to a target: interpolated, censored by the budget, and averaged as a restricted mean."""

import math
from dataclasses import replace

import numpy as np
import pytest
from families import options

from optbench.store import RunDirectory
from optbench.sweep.search.adaptive.answers import Tables, answer
from optbench.sweep.search.adaptive.lattice import Outcomes, layout
from optbench.sweep.search.adaptive.method import Adaptive
from optbench.sweep.search.adaptive.picking import _shares
from optbench.sweep.search.adaptive.rounds import start
from optbench.sweep.search.adaptive.surrogate import Scale, posterior
from optbench.sweep.search.goal import Goal
from optbench.sweep.search.method import Pick, Seen
from optbench.sweep.search.record import Chosen
from optbench.sweep.search.replay import Table, replay

CHOSEN = Chosen(0, Pick({"seed": "0"}), "a-run", 200)


def seen_of(goal, directory, rows, **summary):
    for step, value in rows:
        directory.append({"event": "evaluation", "step": step, goal.metric: value})
    directory.flush()
    return goal.of_summary(CHOSEN, 0, {"status": "done", "steps": rows[-1][0], **summary}, directory, False)


@pytest.mark.parametrize(
    ("rows", "summary", "value", "censored"),
    [
        ([(10, 0.5), (20, 0.9), (30, 0.6)], {}, 15.0, False),
        ([(4, 0.7), (8, 0.8)], {}, 4.0, False),
        ([(4, 1.3), (8, 1.4)], {}, 4 * (0.7 - 0.1) / (1.3 - 0.1), False),  # from a guess of ten classes at step 0
        ([(10, 0.5), (200, 0.6)], {}, 200.0, True),
        ([(10, 0.5), (20, 0.4)], {"status": "diverged"}, 200.0, True),
    ],
)
def test_a_time_is_interpolated_and_otherwise_censored_at_the_end_of_the_budget(
    tmp_path, rows, summary, value, censored
):
    directory = RunDirectory(tmp_path / "a-run")
    directory.create("{}")
    found = seen_of(Goal("validation_accuracy", 0.7, 0.1), directory, rows, **summary)
    assert (found.value, found.censored, found.horizon) == (pytest.approx(value), censored, 200)
    assert found.first is None  # the accuracy of a guess is no time


def of_table(times, budgets=(1000, 250), diverged=()):
    """The outcomes of a grid of times (B, U, S) in steps; infinity is a run that its budget censored."""
    times = np.asarray(times, dtype=float)
    table = grid(np.nan_to_num(times, nan=1.0), budgets)
    (search,) = layout(table, options()).searches
    found = Outcomes(search)
    for cell in np.ndindex(times.shape):
        state = "diverged" if cell in diverged else "done"
        b = cell[0]
        reached = math.isfinite(times[cell])
        value = float(times[cell]) if reached else float(budgets[b])
        if not math.isnan(times[cell]):
            found.add(Seen(search.pick(cell), 0, state, value, not reached, horizon=budgets[b]), higher=False)
    return found


def grid(times, budgets):
    conditions, rates, _ = times.shape
    return Table(
        4.0 ** np.arange(1, conditions + 1), 2.0 ** np.arange(rates), times, times, np.array(budgets, dtype=float)
    )


def test_times_are_shares_of_budgets_that_differ():
    found = of_table([[[100.0, 500.0], [math.inf, 800.0], [math.inf] * 2]] * 2, (1000, 2000), [(0, 2, 0)])
    assert found.losses[0].tolist() == [[0.1, 0.5], [math.inf, 0.8], [math.inf, math.inf]]
    assert found.losses[1, 0].tolist() == [0.05, 0.25]
    assert (found.horizon, found.units.tolist()) == (1.0, [1000, 2000])
    # Only one of the runs that did not reach the target diverged: the others were too slow.
    assert np.argwhere(found.diverged).tolist() == [[0, 2, 0]]


def test_a_mean_of_times_is_restricted_and_the_rate_is_chosen_by_it():
    # The first rate has a run that its budget censored, and still the least restricted mean: (200 + 200 + 1000) / 3 < 600.
    times = [[[200, 200, math.inf], [600, 600, 600], [900, math.inf, 900], [math.inf] * 3]] * 2
    outcomes = of_table(times, (1000, 1000))
    tables = Tables(outcomes, posterior(outcomes, 0))
    expected = [1400 / 3, 600, 2800 / 3, math.inf]
    np.testing.assert_allclose(tables.means[0, 0] * outcomes.units[0], expected)
    assert [row.chosen for row in answer(tables, outcomes).conditions] == [1, 1]
    resampled = tables.resampled_means[:, 0, 0]
    # Of three drawn seeds, k did not reach: (200 (3 - k) + 1000 k) / 3, and none did with probability 1 / 27.
    expected = np.array([200, 1400 / 3, 2200 / 3, math.inf])
    assert (np.isin(np.round(1000 * resampled, 6), expected.round(6))).all()


def test_where_no_rate_reaches_the_target_none_is_chosen():
    outcomes = of_table([[[200.0], [300.0], [400.0]], [[math.inf]] * 3], (1000, 1000))
    rows = answer(Tables(outcomes, posterior(outcomes, 0)), outcomes).conditions
    assert rows[0].chosen == 1
    assert math.isnan(rows[1].chosen)


def test_the_scale_of_times_is_logarithmic_and_ends_with_the_budget():
    scale = Scale.of(np.array([0.05, 0.3, math.inf]), math.nan, 1.0)
    shares = np.array([0.04, 0.05, 0.05 * math.sqrt(20), 1.0])
    np.testing.assert_allclose(scale.z(shares)[1:], [0, 1.4, 2.8], atol=1e-12)
    np.testing.assert_allclose(scale.losses(scale.z(shares[:3])), shares[:3], rtol=1e-12)
    assert scale.z(np.array([math.inf]))[0] == 2.9
    assert scale.losses(np.array([2.85]))[0] == math.inf


def test_a_run_that_was_too_slow_does_not_rule_larger_rates_out():
    slow = [[[math.inf], [math.nan], [math.nan], [math.nan]]] * 2
    rates = [each.cell[1] for each in start(of_table(slow), lambda: np.ones(2, dtype=bool))]
    assert {1, 2, 3} <= set(rates)
    diverged = of_table(slow, diverged=[(0, 0, 0), (1, 0, 0)])
    assert list(start(diverged, lambda: np.ones(2, dtype=bool))) == []


def test_a_run_that_may_not_reach_its_target_is_paid_for_in_whole():
    outcomes = of_table([[[200.0, 400.0], [math.inf] * 2, [500.0, 500.0]]] * 2, (1000, 1000))
    tables = Tables(outcomes, posterior(outcomes, 0))
    shares = _shares(tables, np.ones((2, 2, 3)))
    np.testing.assert_allclose(shares[:, 0], [[0.2, 1, 0.5], [0.4, 1, 0.5]])


class Timed(Table):
    """A table of times, which are censored at the budget of their condition."""

    def trained(self, seen):
        cell = self.cell(seen.pick)
        budget = int(self.planned[cell[0]])
        time = float(min(self.losses[cell], budget))
        censored = self.losses[cell] > budget
        return replace(seen, state="done", value=time, censored=bool(censored), steps=int(time), horizon=budget)


def test_a_search_finds_the_rates_with_the_fewest_steps():
    """Steps c (r / r* + r* / r) / 2 with c = 20 (1 + 64 / B) and r* as B up to 64, in budgets of 4 c; noise of 8 %."""
    batches, rates = 4.0 ** np.arange(0, 6), 2.0 ** np.arange(-10.0, 3)
    least = 20 * (1 + 64 / batches)
    best = 2.0**-6 * np.minimum(batches, 64)
    ratio = rates / best[:, None]
    noise = np.exp(0.08 * np.random.default_rng(0).standard_normal((6, 13, 5)))
    times = (least[:, None] * (ratio + 1 / ratio) / 2)[..., None] * noise
    table = Timed(batches, rates, times, times, np.ceil(4 * least))
    method = Adaptive()
    seen, _ = replay(method, table, options(budget=60, confirm=3))
    rows = method.answer(table, seen, options()).rows
    assert 60 < len(seen) < 100
    found = np.log2([row["chosen"] for row in rows])
    assert (np.abs(found - np.log2(best)) <= 1).all()
    curve = {
        (row["batch"], row["optimizer.learning_rate"]): row for row in method.answer(table, seen, options()).surrogate
    }
    place = curve[1.0, 2.0**-6]  # in steps, not in shares
    assert place["low"] <= times[0, 4].mean() * 1.15
    assert place["loss"] == pytest.approx(least[0], rel=0.15)

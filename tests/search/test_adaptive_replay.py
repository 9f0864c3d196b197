"""Searches replayed on grids with known optima: errors, intervals and regrets within bounds, and the same picks every time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from families import Search, exponent, options, table

from optbench.sweep.search.adaptive.costs import costs_of
from optbench.sweep.search.adaptive.method import Adaptive
from optbench.sweep.search.method import Seen
from optbench.sweep.search.replay import replay

HALF = {"optimum": lambda v: v / 2 - 10}
FAMILIES = {
    # the grid, and the largest error of the exponent, width of its interval, and regret of a batch, at 10 % of the cost
    "line": ({}, 0.03, 0.15, 0.022),
    "bend": ({"optimum": lambda v: min(v, 7.5) - 14}, 0.07, 0.2, 0.022),
    "flat": ({"optimum": lambda v: -7.0, "limit": -3.5}, 0.04, 0.25, 0.022),
    "half": (HALF, 0.07, 0.2, 0.022),
    "edge": ({"optimum": lambda v: v - 17}, 0.04, 0.2, 0.022),
    "noisy": ({**HALF, "noise": 4.0}, 0.25, 1.2, 0.13),
    "one seed": ({**HALF, "seeds": 1}, 0.2, 1.2, 0.15),
    "two batches": ({**HALF, "batches": range(4, 6)}, 0.5, 2.5, 0.022),
    "plateau": ({**HALF, "valley": lambda d: 0.08 * np.maximum(np.abs(d) - 2, 0) ** 2}, 0.35, 1.0, 0.03),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_tenth_of_the_cost_finds_the_law_of_the_grid(name):
    arguments, error, width, regret = FAMILIES[name]
    grid = table(**arguments)
    found = Search(grid, share=0.1)
    value, low, high = found.exponent
    assert abs(value - exponent(grid)) <= error
    assert low <= exponent(grid) <= high
    assert high - low <= width
    assert found.regrets.max() <= regret
    assert found.cost <= 0.1
    assert "budget" in found.why


@pytest.mark.slow
def test_two_optima_have_a_wide_interval_and_no_bad_rate():
    grid = table(optimum=lambda v: v / 4 - 9, valley=lambda d: np.minimum(0.08 * d**2 + 0.02, 0.12 * (d - 4) ** 2))
    found = Search(grid, share=0.1)
    _, low, high = found.exponent
    assert high - low >= 0.2
    assert found.regrets.max() <= 0.05


@pytest.mark.slow
def test_information_finds_the_law_too():
    grid = table(batches=range(4, 10))
    found = Search(grid, share=0.12, picks="information")
    assert abs(found.exponent[0] - exponent(grid)) <= 0.05


SMALL = {"batches": range(6, 10), "rates": 9, "limit": -4.5, "seeds": 2}


def test_the_first_picks_are_in_the_cheapest_batches_and_spread_over_the_rates():
    grid = table()
    method, seen = Adaptive(), []
    for number in range(2):
        picks = method.choose(grid, seen, options()).picks
        seen += [Seen(pick, number, "waiting", planned=grid.steps(pick)) for pick in picks]
    cells = [grid.cell(each.pick) for each in seen]
    assert len(set(cells)) == 8
    assert {b for b, _, _ in cells} == {7, 8}
    assert len({u for _, u, _ in cells}) >= 4


def test_quality_saves_runs_where_training_fails():
    # The largest batches come to 1.2 times the least loss at best.
    grid = table(optimum=lambda v: min(v, 8) - 14, batches=range(6, 13), seeds=3)
    late = grid.conditions >= 2.0**11

    def runs(quality):
        found = Search(grid, budget=50, quality=quality)
        return sum(late[b] for b, _, _ in found.cells)

    assert runs(0.01) < 0.6 * runs(None)


def test_at_last_seeds_are_trained_at_the_chosen_rates():
    grid = table(batches=range(6, 10), noise=3.0)
    plain, confirmed = (Search(grid, budget=16, confirm=count) for count in (0, 3))

    def seeds(found):
        rates = [int(np.argmin(np.abs(np.log(grid.rates / row["chosen"])))) for row in found.answer.rows]
        return [len({s for b, u, s in found.cells if (b, u) == place}) for place in enumerate(rates)]

    assert plain.cells == confirmed.cells[: len(plain.cells)]
    assert min(seeds(plain)) < 3 <= min(seeds(confirmed))
    assert len(confirmed.cells) <= len(plain.cells) + 3 * 4 * 2  # chosen rates hardly move
    assert len(set(confirmed.cells)) == len(confirmed.cells)
    assert confirmed.why == plain.why


def test_without_a_budget_every_optimum_is_found_and_the_search_ends_by_itself():
    grid = table(**SMALL)
    found = Search(grid)
    assert found.why == "no further run would change the answer"
    assert len(found.seen) < grid.size
    assert found.exponent[0] == pytest.approx(exponent(grid), abs=1e-9)


def test_the_order_of_arrival_and_of_the_picks_does_not_matter():
    grid = table(**SMALL)
    seen, _ = replay(Adaptive(), grid, options(budget="20%"))
    expected = Adaptive().choose(grid, seen, options(budget="90%"))
    shuffled = [seen[i] for i in np.random.default_rng(0).permutation(len(seen))]
    assert Adaptive().choose(grid, shuffled, options(budget="90%")) == expected
    assert expected.picks


def test_a_replay_repeats_its_picks_whatever_the_process_has_seen():
    grid = table(**SMALL)
    used = Adaptive()
    replay(used, table(draw=1, **SMALL), options(seed=5, budget="10%"))
    first = replay(used, grid, options(seed=1, budget="20%"))
    assert replay(Adaptive(), grid, options(seed=1, budget="20%")) == first


def test_losses_that_are_not_seen_change_no_pick():
    grid = table(**SMALL)
    seen, _ = replay(Adaptive(), grid, options(budget="20%"))
    other = replace(grid, losses=grid.losses.copy())
    chosen = {grid.cell(each.pick) for each in seen}
    for cell in np.ndindex(grid.losses.shape):
        if cell not in chosen:
            other.losses[cell] = 123.0
    assert replay(Adaptive(), other, options(budget="20%"))[0] == seen


def test_a_search_goes_down_until_a_rate_trains():
    grid = table(optimum=lambda v: -11.0, limit=-10.5, batches=range(6, 10))
    found = Search(grid, budget=60)
    assert np.isfinite(found.regrets).all()
    assert np.argmin(grid.losses.mean(2), 1).max() <= 1


def test_if_no_rate_trains_the_search_ends_and_says_so():
    grid = table(limit=-99.0)
    found = Search(grid)
    assert found.why == "no rate trained: every run diverged or failed"
    assert found.answer.line == "no rate has trained yet"
    assert len(found.seen) <= 22


def test_no_search_ends_by_its_width_before_twelve_runs_have_ended():
    found = Search(table(**SMALL), budget="90%", minimum=0.0, width=99.0)
    assert found.why == "the answer is known as closely as was asked"
    assert sum(each.state in ("done", "diverged") for each in found.seen) >= 12


class Pair:
    """Two grids, one for each of two optimizers, as one problem."""

    higher = False

    def __init__(self, *tables):
        self.tables = dict(zip("ab", tables, strict=True))
        self.grids = [replace(tables[0].grids[0], axes={"optimizer": ("a", "b"), **tables[0].grids[0].axes})]
        self.size, self.total_steps = (sum(getattr(each, key) for each in tables) for key in ("size", "total_steps"))

    def _of(self, pick):
        return self.tables[pick.cell["optimizer"]], replace(
            pick, cell={key: word for key, word in pick.cell.items() if key != "optimizer"}
        )

    def exists(self, pick):
        return True

    def steps(self, pick):
        grid, inner = self._of(pick)
        return grid.steps(inner)

    def trained(self, seen):
        grid, inner = self._of(seen.pick)
        return replace(grid.trained(replace(seen, pick=inner)), pick=seen.pick)


def test_two_searches_share_a_budget_and_what_a_method_remembers_changes_no_pick():
    pair = Pair(table(**SMALL), table(draw=1, **{**SMALL, "noise": 6.0}))
    method, seen, runs = Adaptive(), [], {"a": 0, "b": 0}
    for number in range(12):
        choice = method.choose(pair, seen, options(budget="60%"))
        assert Adaptive().choose(pair, seen, options(budget="60%")) == choice
        for pick in choice.picks:
            runs[pick.cell["optimizer"]] += 1
            seen.append(pair.trained(Seen(pick, number, "waiting", planned=pair.steps(pick), first=2.3)))
    assert min(runs.values()) > 5
    assert runs["b"] > runs["a"]  # the noisier one


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"budget": 20}, "the budget of 20 runs is spent"),
        ({"budget": "10%"}, "the budget of 10% of the steps is spent"),
        ({"budget": "10%", "cost": "runs"}, "the budget of 10% of the runs is spent"),
        ({"budget": "90%", "width": 5.0}, "the answer is known as closely as was asked"),
        ({"budget": "90%", "factor": 64.0, "minimum": 0.1}, "the answer is known as closely as was asked"),
    ],
    ids=str,
)
def test_reasons_to_stop(values, why):
    grid = table(**SMALL)
    found = Search(grid, **values)
    assert found.why == why
    if values.get("budget") == 20:
        assert len(found.seen) == 20
    if values.get("cost") == "runs":
        assert len(found.seen) == grid.size // 10
    if "factor" in values:
        assert found.cost >= 0.1


def test_seconds_are_those_of_a_start_and_of_the_steps_once_three_runs_have_told_them():
    grid = table(**SMALL)
    seen, _ = replay(Adaptive(), grid, options(budget="15%"))
    timed = [replace(each, seconds=100 + 0.25 * each.steps) for each in seen]
    for some, expected in ((timed, 100 + 0.25 * grid.planned), (timed[:2], grid.planned), (seen, grid.planned)):
        (outcomes,) = Adaptive().outcomes(grid, some, options())
        np.testing.assert_allclose(costs_of(outcomes, "seconds"), expected)
        np.testing.assert_array_equal(costs_of(outcomes, "runs"), 1)
        np.testing.assert_array_equal(costs_of(outcomes, "steps"), grid.planned)
    picks = Adaptive().choose(grid, timed, options(budget="60%", cost="seconds")).picks
    assert picks


def test_a_failed_run_is_not_chosen_again():
    grid = table(**SMALL)
    seen, _ = replay(Adaptive(), grid, options(budget="20%"))
    failed = [
        replace(each, state="failed", value=None) if number % 7 == 3 else each for number, each in enumerate(seen)
    ]
    picks = Adaptive().choose(grid, failed, options(budget="60%")).picks
    assert picks
    assert not {grid.cell(pick) for pick in picks} & {grid.cell(each.pick) for each in seen}


def test_the_answer_of_nothing_and_of_one_run():
    grid = table(**SMALL)
    method = Adaptive()
    assert method.answer(grid, [], options()).line == "no rate has trained yet"
    pick = method.choose(grid, [], options()).picks[0]
    found = method.answer(grid, [Seen(pick, 0, "done", value=1.0, steps=5, planned=5)], options())
    assert len(found.rows) == len(grid.conditions)
    assert all(math.isfinite(row["optimum"]) for row in found.rows)
    assert len(found.surrogate) == len(grid.conditions) * len(grid.rates)

"""The searches of a sweep as arrays: which axes vary, in which order, and what is refused."""

import math

import numpy as np
import pytest
from families import options

from optbench.errors import UserError
from optbench.sweep.search.adaptive.lattice import LEAST_ERROR, Outcomes, layout
from optbench.sweep.search.adaptive.method import Adaptive
from optbench.sweep.search.method import Grid, Pick, Seen

RATE = "optimizer.learning_rate"


class Sweep:
    """A problem without results: some grids, and cells that a condition excludes."""

    def __init__(self, *grids, excluded=lambda cell: False, higher=False):
        self.grids, self.excluded, self.higher = grids, excluded, higher
        self.size = sum(grid.size for grid in grids)
        self.total_steps = 100 * self.size
        self.asked = 0

    def exists(self, pick):
        self.asked += 1
        return not self.excluded(pick.cell)

    def steps(self, pick):
        return 4096 // int(float(pick.cell.get("batch", "4096"))) * 100

    def search_space(self, pick):
        return {}


def grid(name="", **axes):
    return Grid(name, {key.replace("rate", RATE): tuple(values.split(",")) for key, values in axes.items()})


FULL = grid(optimizer="adam,sgd", rate="1e-1,0.001,0.01", batch="128,32", seed="3,4")


def test_every_combination_of_the_other_axes_is_a_search_with_ascending_rates():
    found = layout(Sweep(FULL), options()).searches
    assert [search.fixed for search in found] == [{"optimizer": "adam"}, {"optimizer": "sgd"}]
    first = found[0]
    np.testing.assert_array_equal(first.rates, [0.001, 0.01, 0.1])
    np.testing.assert_array_equal(first.conditions, [32, 128])
    np.testing.assert_array_equal(first.planned, [12800, 3200])
    pick = first.pick((0, 2, 1))
    assert list(pick.cell.items()) == [("optimizer", "adam"), (RATE, "1e-1"), ("batch", "32"), ("seed", "4")]
    assert first.cell(pick) == (0, 2, 1)


def test_a_pick_finds_its_search_whatever_the_order_of_its_axes():
    found = layout(Sweep(FULL), options())
    cell = found.searches[1].pick((1, 0, 0)).cell
    assert found.of(Pick(dict(reversed(cell.items())))) == 1
    assert found.of(Pick({**cell, "optimizer": "lion"})) is None


def test_excluded_cells_are_left_out():
    (search,) = layout(
        Sweep(
            grid(rate="1,2,4", batch="32,64", seed="0,1"),
            excluded=lambda cell: cell[RATE] == "2" and cell["batch"] == "32",
        ),
        options(),
    ).searches
    assert not search.exists[0, 1].any()
    assert search.exists.sum() == 10


def test_a_batch_that_is_excluded_at_every_rate_is_no_condition():
    sweep = Sweep(
        grid(optimizer="adam,sgd", rate="1,2,4", batch="32,64,128", seed="0,1"),
        excluded=lambda cell: cell["optimizer"] == "sgd" or int(cell["batch"]) < 128,
    )
    (search,) = layout(sweep, options()).searches
    assert search.fixed == {"optimizer": "adam"}
    np.testing.assert_array_equal(search.conditions, [128])
    np.testing.assert_array_equal(search.planned, [3200])
    assert search.exists.shape == (1, 3, 2)
    assert search.exists.all()
    assert search.cell(search.pick((0, 1, 1))) == (0, 1, 1)
    assert search.pick((0, 1, 1)).cell["batch"] == "128"


@pytest.mark.parametrize(
    ("sweep", "values", "message"),
    [
        ([grid(batch="32,64")], {}, f"search.over: the sweep has no axis {RATE} with three numbers or more; none"),
        ([grid(rate="1,2,4")], {"over": "batch"}, f"search.over=batch: .* with three numbers or more; .*{RATE}"),
        ([grid(rate="1,2,4", batch="8,16")], {"law": "epochs"}, "search.law=epochs: no axis .* two numbers"),
        ([grid(rate="1,2,4", batch="8,16")], {"law": RATE}, "this is the axis of search.over"),
        ([grid(rate="0,1,2,4", batch="8,16")], {}, "search.over: "),
        ([grid(rate="1,2,4")], {"width": 0.1}, "search.width=0.1: the sweep has no axis search.law"),
        ([grid(rate=",".join(map(str, range(1, 1002))), batch="1,2")], {}, "1001 of .* are 2002; accepted: up to 2000"),
        ([Grid("", {RATE: ("1", "2", "4")}, {"x": {"low": 0}})], {}, "x: search=adaptive chooses among values"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_in_one_sentence(sweep, values, message):
    with pytest.raises(UserError, match=message):
        Adaptive().check(Sweep(*sweep), options(**values))


def test_grids_with_few_rates_are_chosen_whole_in_the_first_round():
    short = grid("short", rate="1", batch="32,64", seed="0,1")
    sweep = Sweep(grid("long", rate="1,2,4", batch="32,64"), short)
    choice = Adaptive().choose(sweep, [], options())
    assert {pick.grid for pick in choice.picks} == {"short"}
    assert len(choice.picks) == short.size
    seen = [Seen(pick, 0, "done", value=1.0, steps=10, planned=10) for pick in choice.picks]
    assert {pick.grid for pick in Adaptive().choose(sweep, seen, options()).picks} == {"long"}


def test_other_axes_than_batch_and_rate_can_be_searched():
    axes = {"optimizer.momentum": ("0.5", "0.9", "0.99"), "model.width": ("8", "16", "32"), "batch": ("32", "64")}
    found = layout(Sweep(Grid("", axes)), options(over="optimizer.momentum", law="model.width")).searches
    assert [search.fixed for search in found] == [{"batch": "32"}, {"batch": "64"}]
    assert (found[0].over, found[0].law, found[0].seed) == ("optimizer.momentum", "model.width", None)


def test_the_law_may_be_absent():
    (search,) = layout(Sweep(grid(rate="1,2,4", batch="32")), options()).searches
    assert (search.law, search.fixed, search.exists.shape) == (None, {"batch": "32"}, (1, 3, 1))


def test_accuracies_become_errors_and_what_has_no_outcome_is_lost():
    (search,) = layout(Sweep(grid(rate="1,2,4")), options()).searches
    outcomes = Outcomes(search)
    for u, (state, value) in enumerate([("done", 0.9), ("done", 1.0), ("failed", None)]):
        outcomes.add(Seen(search.pick((0, u, 0)), 0, state, value=value, first=0.1), higher=True)
    np.testing.assert_allclose(outcomes.losses.ravel(), [0.1, LEAST_ERROR, math.nan])
    assert outcomes.lost.ravel().tolist() == [False, False, True]
    assert outcomes.first == pytest.approx(0.9)
    assert not outcomes.open.any()


def test_seeds_that_have_not_begun_are_drawn_as_a_few_that_stand_for_all():
    (search,) = layout(Sweep(grid(rate="1,2,4", seed=",".join(map(str, range(40))))), options()).searches
    outcomes = Outcomes(search)
    assert outcomes.weights().shape == (5, 1, 3)
    np.testing.assert_allclose(outcomes.weights().sum(0), 40)
    outcomes.add(Seen(search.pick((0, 0, 9)), 0, "done", value=1.0), higher=False)
    weights = outcomes.weights()
    assert len(weights) == 11
    np.testing.assert_allclose(weights[:10], 1)
    np.testing.assert_allclose(weights[10], 30)


def test_a_sweep_of_a_million_cells_is_not_asked_about_every_cell():
    numbers = ",".join
    rates, batches = numbers(repr(2.0**-k) for k in range(40)), numbers(str(2**k) for k in range(1, 11))
    names, seeds = numbers(f"o{k}" for k in range(50)), numbers(map(str, range(50)))
    sweep = Sweep(grid(optimizer=names, rate=rates, batch=batches, seed=seeds))
    assert sweep.size == 1_000_000
    choice = Adaptive().choose(sweep, [], options())
    assert len({pick.cell["optimizer"] for pick in choice.picks}) == 4
    assert sweep.asked < 100


def test_the_answer_names_the_grids_of_an_experiment():
    sweep = Sweep(
        grid("sgd", rate="0.001,0.01,0.1", batch="32,128"), grid("adam", rate="0.001,0.01,0.1", batch="32,128")
    )
    line = Adaptive().answer(sweep, [], options()).line
    assert line == "sgd: no rate has trained yet; adam: no rate has trained yet"

"""The gains of cells against closed forms of the normal distribution, and their prices."""

from dataclasses import replace

import numpy as np
import pytest
from families import options, table

from optbench.sweep.search.adaptive import picking
from optbench.sweep.search.adaptive.answers import Tables
from optbench.sweep.search.adaptive.lattice import Outcomes, layout
from optbench.sweep.search.adaptive.surrogate import posterior
from optbench.sweep.search.method import Choice, Pick
from optbench.sweep.search.replay import replay


def centred(values):
    return values - values.mean(-1, keepdims=True)


def test_the_gain_is_the_variance_that_a_cell_explains():
    draws = np.random.default_rng(0).standard_normal((4, 40_000))
    cells = centred(np.stack([draws[0], draws[0] + draws[1], 5 * draws[2]]))
    target = centred(3 * draws[:1] + draws[1:2])
    # Cov²/Var: 9/1, (3 + 1)²/2, 0
    np.testing.assert_allclose(picking._gains(cells, target), [9, 8, 0], atol=0.15)
    left, rest = picking._without(cells, target, 0)
    np.testing.assert_allclose(picking._gains(left, rest), [0, 1, 0], atol=0.1)


def test_what_is_unrelated_has_mostly_no_gain_in_a_few_draws():
    generator = np.random.default_rng(1)
    cells, target = centred(generator.standard_normal((2000, 320))), centred(generator.standard_normal((1, 320)))
    assert (picking._gains(cells, target) == 0).mean() == pytest.approx(0.954, abs=0.02)  # |normal| < 2


def proposals(costs, picks="bracket", allowed=None, count=6):
    grid = table(batches=range(6, 10), rates=9, limit=-4.5, seeds=2)
    outcomes = Outcomes(layout(grid, options()).searches[0])
    outcomes.first = grid.first
    outcomes.losses[:, ::3, 0] = grid.losses[:, ::3, 0]
    drawn = posterior(outcomes, 0)
    found = picking.propose(
        outcomes, drawn, Tables(outcomes, drawn), costs, lambda: np.ones(4) > 0 if allowed is None else allowed, picks
    )
    return [next(found) for _ in range(count)], outcomes


@pytest.mark.parametrize("picks", ["bracket", "information"])
def test_a_run_that_costs_more_is_chosen_for_more_gain_only(picks):
    equal, _ = proposals(np.ones(4), picks)
    for b in range(4):
        dear, _ = proposals(np.where(np.arange(4) == b, 1e6, 1.0), picks)
        assert b not in {each.cell[0] for each in dear}
    assert len({each.cell[0] for each in equal}) > 1
    cheaper, _ = proposals(np.full(4, 0.25), picks)
    assert cheaper[0].gain == pytest.approx(4 * equal[0].gain)


def test_conditions_that_cannot_be_paid_are_not_proposed():
    found, outcomes = proposals(np.ones(4), allowed=np.arange(4) == 2)
    assert {each.cell[0] for each in found} == {2}
    assert len({each.cell for each in found}) == len(found)
    assert all(outcomes.open[each.cell] for each in found)


def test_a_round_is_chosen_without_the_results_of_the_round_before():
    class Spy:
        """Chooses three cells in three rounds."""

        def __init__(self):
            self.states = []

        def check(self, problem, options):
            pass

        def choose(self, problem, seen, options):
            self.states.append([each.state for each in seen])
            axes = problem.grids[0].axes
            cell = {key: words[0] for key, words in axes.items()} | {"seed": axes["seed"][min(len(seen), 2)]}
            return Choice((Pick(cell),) if len(seen) < 3 else (), "over")

    spy, grid = Spy(), replace(table(batches=range(6, 8), seeds=3))
    seen, why = replay(spy, grid, options())
    assert spy.states == [[], ["waiting"], ["done", "waiting"], ["done", "done", "waiting"], ["done"] * 3]
    assert [each.state for each in seen] == ["done"] * 3
    assert why == "over"

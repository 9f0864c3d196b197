"""search=optuna on tables: what it draws, what it tells Optuna, and what it continues."""

import dataclasses
import math

import pytest

from optbench.errors import UserError
from optbench.sweep.search.method import Grid, Options, Seen

pytest.importorskip("optuna", reason="needs the extra optuna")
pytest.importorskip("cmaes", reason="needs the extra optuna")

from optbench.sweep.search.optuna_search import OptunaSearch
from optbench.sweep.search.optuna_study import pruners, samplers
from optbench.sweep.search.searched_options import ListedOption, option, values_of

RATE = "optimizer.learning_rate"
LOG = {"distribution": "log_uniform", "low": 1e-4, "high": 1.0}
SPACE = {RATE: LOG, "optimizer.beta1": {"distribution": "log_uniform_complement", "low": 1e-3, "high": 1.0}}
VALUES = {
    "over": None,
    "trials": 12,
    "sampler": "tpe",
    "sampler_options": {},
    "pruner": "none",
    "pruner_options": {},
    "stages": 4,
}


@dataclasses.dataclass
class Table:
    """A sweep without training: runs of 100 steps, evaluated every 10."""

    axes: dict[str, tuple[str, ...]]
    space: dict[str, dict] = dataclasses.field(default_factory=lambda: SPACE)
    intervals: dict[str, dict] = dataclasses.field(default_factory=dict)
    higher: bool = False
    excluded: object = None

    @property
    def grids(self):
        return [Grid("", self.axes, self.intervals)]

    @property
    def size(self):
        return self.grids[0].size

    def exists(self, pick):
        return self.excluded is None or not self.excluded(pick.cell)

    def steps(self, pick):
        return 100

    def search_space(self, pick):
        assert set(self.axes) <= set(pick.cell)
        return self.space


def options(seed=0, round_size=4, **values):
    return Options({**VALUES, **values}, seed, round_size)


def bowl(cell, step=100):
    """Best (0) at a rate of 0.01; a slower rate is far from its end at first."""
    away = math.log10(float(cell[RATE])) + 2
    return away**2 + (100 - step) / 100


def finished(pick, number, value=bowl, until=None):
    end = -(-(pick.until or 100) // 10) * 10  # a pause is at an evaluation
    result = value(pick.cell, end)
    if result == math.inf:
        return Seen(pick, number, "diverged", -1.0, steps=7, planned=100)  # its last value is not a result
    evaluations = tuple((step, value(pick.cell, step)) for step in range(10, end + 1, 10))
    return Seen(pick, number, "done" if pick.until is None else "paused", result, False, evaluations, end, 100)


def search(problem, given, value=bowl, most=200, early=True):
    """Play a whole search as the driver does: rounds overlap, and the state of runs of the last round is "waiting".

    ``early``: their evaluations are there already; otherwise only those before the last pause.
    """
    method, seen, before = OptunaSearch(), [], {}
    method.check(problem, given)
    last, known = set(), {}
    for number in range(most):
        shown = [hidden(one, early, known) if key(one.pick) in last else one for one in seen]
        choice = method.choose(problem, shown, given)
        if choice.why:
            assert not choice.picks
            return seen, choice.why
        if not choice.picks:
            assert last, "it waits although nothing is trained"
            last = set()
            continue
        known = {key(one.pick): one.steps for one in seen}
        for pick in choice.picks:
            place = before.setdefault(key(pick), len(seen))
            first = seen[place].round if place < len(seen) else number
            seen[place : place + 1] = [finished(pick, first, value)]
        last = {key(pick) for pick in choice.picks}
    raise AssertionError("the search does not end")


def hidden(one, early, known):
    evaluations = tuple(pair for pair in one.evaluations if early or pair[0] <= known.get(key(one.pick), 0))
    return dataclasses.replace(one, state="waiting", value=one.value if early else None, evaluations=evaluations)


def key(pick):
    return tuple(sorted(pick.cell.items()))


def test_draws_the_search_space_of_the_optimizer():
    seen, why = search(Table({"optimizer": ("adam",)}), options())
    assert len(seen) == 12
    assert why == "all 12 trials are over"
    for one in seen:
        assert set(one.pick.cell) == {"optimizer", *SPACE}
        assert 1e-4 <= float(one.pick.cell[RATE]) <= 1
        assert 0 <= float(one.pick.cell["optimizer.beta1"]) <= 1 - 1e-3
        assert one.pick.cell[RATE] == repr(float(f"{float(one.pick.cell[RATE]):.6g}"))


def test_an_interval_replaces_the_search_space():
    problem = Table({"optimizer": ("adam",)}, intervals={RATE: {**LOG, "low": 1e-3, "high": 1e-2}})
    seen, _ = search(problem, options())
    assert all(set(one.pick.cell) == {"optimizer", RATE} for one in seen)
    assert all(1e-3 <= float(one.pick.cell[RATE]) <= 1e-2 for one in seen)


def test_over_names_options_and_axes():
    axes = {"optimizer": ("adam",), "batch": ("512", "64", "8")}
    seen, _ = search(Table(axes), options(over=f"{RATE}, batch"))
    assert len(seen) == 12, "one study for all batches"
    assert {one.pick.cell["batch"] for one in seen} <= set(axes["batch"])
    with pytest.raises(UserError, match=r"search.over=momentum: .*optimizer.learning_rate, optimizer.beta1, batch"):
        search(Table(axes), options(over="momentum"))


def test_a_study_for_each_combination():
    seen, why = search(Table({"batch": ("64", "512"), "seed": ("0",)}), options(trials=6))
    assert why == "all 6 trials of 2 searches are over"
    rates = {batch: [one.pick.cell[RATE] for one in seen if one.pick.cell["batch"] == batch] for batch in ("64", "512")}
    assert len(rates["64"]) == len(rates["512"]) == 6
    assert not set(rates["64"]) & set(rates["512"]), "each has draws of its own"


def test_seeds_are_replicas():
    problem = Table({"seed": ("0", "1", "2")})
    seen, _ = search(problem, options(trials=5), lambda cell, step=100: float(cell["seed"]))
    assert len(seen) == 15
    row = OptunaSearch().answer(problem, seen, options(trials=5)).rows[0]
    assert (row["trials"], row["ended"], row["best"]) == (5, 5, 1.0)


def test_the_value_of_a_trial_with_a_diverged_seed_is_the_worst():
    problem = Table({"seed": ("0", "1")})
    value = lambda cell, step=100: math.inf if cell["seed"] == "1" and float(cell[RATE]) > 0.01 else bowl(cell)  # noqa: E731
    seen, _ = search(problem, options(trials=20), value)
    row = OptunaSearch().answer(problem, seen, options(trials=20)).rows[0]
    assert row["diverged"] == len({one.pick.cell[RATE] for one in seen if float(one.pick.cell[RATE]) > 0.01}) > 0
    assert float(row[RATE]) <= 0.01


def test_failed_runs_are_left_out():
    problem, method = Table({"seed": ("0", "1")}), OptunaSearch()
    picks = method.choose(problem, (), options(round_size=4)).picks
    states = ["done", "failed", "failed", "failed"]
    seen = [Seen(pick, 0, state, 2.0) for pick, state in zip(picks, states, strict=True)]
    row = method.answer(problem, seen, options()).rows[0]
    assert (row["ended"], row["failed"], row["best"]) == (2, 1, 2.0)
    assert method.choose(problem, seen, options()).picks


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "qmc", "nsgaii"])
def test_the_same_results_give_the_same_picks(sampler):
    problem, given = Table({"seed": ("0", "1")}), options(sampler=sampler, trials=14)
    seen, _ = search(problem, given)
    for end in (0, 4, 16, 24):
        part = [
            dataclasses.replace(one, state="waiting") if place >= end - 4 else one
            for place, one in enumerate(seen[:end])
        ]
        again = OptunaSearch().choose(problem, part, given)
        assert again == OptunaSearch().choose(problem, part, given)
        assert [pick.cell for pick in again.picks] == [one.pick.cell for one in seen[end : end + 4]], (
            "a search that was killed chooses what an undisturbed one does"
        )
    assert OptunaSearch().choose(problem, (), options(seed=1, sampler=sampler)) != OptunaSearch().choose(
        problem, (), given
    )


@pytest.mark.parametrize("pruner", ["none", "median", "successive_halving"])
def test_results_of_the_last_round_do_not_change_a_choice(pruner):
    problem, given = Table({"seed": ("0", "1")}), options(trials=30, pruner=pruner)
    assert search(problem, given, early=True) == search(problem, given, early=False)


def test_quasi_random_points_are_one_sequence():
    from scipy.stats import qmc

    problem = Table({"batch": ("64",)}, {RATE: LOG})
    seen, _ = search(problem, options(sampler="qmc", trials=9, round_size=1))
    u = sorted((math.log10(float(one.pick.cell[RATE])) + 4) / 4 for one in seen[1:])
    # The first point is random; then the unscrambled Sobol sequence from its beginning, whose point 0 is a corner.
    expected = sorted(qmc.Sobol(1, scramble=False).random_base2(3)[:, 0])
    assert u == pytest.approx(expected, abs=1e-5)


def values_of_search(sampler, seed, options_searched, trials):
    """The values of the trials, in order; the optimum is away from the middle, at which CMA-ES begins."""
    space = {f"optimizer.{name}": LOG for name in options_searched}

    def value(cell, step=100):
        return sum((math.log10(float(cell[name])) + 3.2) ** 2 for name in space)

    seen, _ = search(Table({"batch": ("64",)}, space), options(seed, sampler=sampler, trials=trials), value)
    return [one.value for one in seen]


def test_tpe_is_better_than_chance_on_average():
    best = {
        name: sum(min(values_of_search(name, seed, "abcd", 25)) for seed in range(10)) for name in ("tpe", "random")
    }
    assert best["tpe"] < 0.8 * best["random"]


def test_a_sampler_with_a_state_of_its_own_learns():
    early = late = 0.0
    for seed in range(3):
        values = values_of_search("cmaes", seed, "ab", 60)
        early, late = early + sum(values[:15]), late + sum(values[-15:])
    assert late < 0.5 * early


def test_higher_may_be_better():
    problem = Table({"batch": ("64",)}, {RATE: LOG}, higher=True)
    seen, _ = search(problem, options(trials=30), lambda cell, step=100: -bowl(cell))
    answer = OptunaSearch().answer(problem, seen, options(trials=30))
    assert answer.rows[0]["best"] == max(one.value for one in seen)
    late = [abs(math.log10(float(one.pick.cell[RATE])) + 2) for one in seen[15:]]
    assert sum(late) / len(late) < 0.6, "the sampler goes up; chance is 1 on average"


def test_a_listed_axis_ends_when_all_its_values_were_tried():
    problem = Table({"batch": ("64",), RATE: ("0.1", "0.001", "0.01")})
    seen, why = search(problem, options(over=RATE))
    assert sorted(one.pick.cell[RATE] for one in seen) == ["0.001", "0.01", "0.1"]
    assert why == "3 trials: Optuna proposes no setting that was not tried"


def test_excluded_cells_are_not_drawn():
    problem = Table({"batch": ("64", "512")}, excluded=lambda cell: cell["batch"] == "512")
    seen, _ = search(problem, options(trials=4))
    assert [one.pick.cell["batch"] for one in seen] == ["64"] * 4


# ---- pruners ----


@pytest.mark.parametrize("pruner", ["median", "percentile", "successive_halving", "hyperband", "threshold"])
def test_a_pruned_trial_stays_paused_and_a_promoted_one_ends(pruner):
    given = {"percentile": {"percentile": 50.0}, "threshold": {"upper": 2.0}}
    all_options = options(
        pruner=pruner, pruner_options=given.get(pruner, {}), trials=40, stages=4, sampler="random", round_size=5
    )
    problem = Table({"batch": ("64",)}, {RATE: LOG})
    seen, why = search(problem, all_options)
    assert len(seen) == 40
    assert why == "all 40 trials are over"
    done = [bowl(one.pick.cell) for one in seen if one.state == "done"]
    paused = [bowl(one.pick.cell) for one in seen if one.state == "paused"]
    assert done
    assert paused
    assert all(one.steps in (30, 50, 80) for one in seen if one.state == "paused"), (
        "evaluations after 25, 50 and 75 steps"
    )
    assert sum(done) / len(done) < sum(paused) / len(paused)
    assert min(done) < min(paused), "the best is not stopped"


def test_a_threshold_prunes_exactly_what_is_above_it():
    problem = Table({"batch": ("64",)}, {RATE: LOG})
    given = options(pruner="threshold", pruner_options={"upper": 1.3}, trials=20, stages=2, sampler="random")
    seen, _ = search(problem, given)
    for one in seen:  # the only pause is at 50 steps, and there half of the loss that steps take away is left
        assert (one.state == "paused") == (bowl(one.pick.cell, 50) > 1.3)


def test_replicas_are_judged_by_their_mean():
    problem = Table({"seed": ("0", "1")}, {RATE: LOG})
    value = lambda cell, step=100: 4.0 * float(cell["seed"])  # noqa: E731
    for upper, state in ((1.9, "paused"), (2.1, "done")):
        given = options(pruner="threshold", pruner_options={"upper": upper}, trials=3, stages=2)
        seen, _ = search(problem, given, value)
        assert {one.state for one in seen} == {state}


def test_without_a_pruner_runs_are_not_paused():
    picks = OptunaSearch().choose(Table({"batch": ("64",)}), (), options()).picks
    assert all(pick.until is None for pick in picks)
    paused = OptunaSearch().choose(Table({"batch": ("64",)}), (), options(pruner="median", stages=3)).picks
    assert all(pick.until == 34 for pick in paused)


# ---- what a user can do wrong ----


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "tpp"}, r"search.sampler=tpp: not one of Optuna's; .*tpe"),
        ({"pruner": "medium"}, r"search.pruner=medium: not one of Optuna's; .*median"),
        ({"sampler_options": {"startup": 3}}, r"search.sampler_options=.*has no option startup; accepted: .*n_startup_trials"),
        ({"sampler_options": {"seed": 3}}, r"TPESampler has no option seed"),
        ({"pruner": "percentile"}, r"PercentilePruner refuses: .*percentile"),
        ({"pruner": "percentile", "pruner_options": {"percentile": 200.0}}, r"PercentilePruner refuses"),
    ],
)  # fmt: skip
def test_options_that_optuna_refuses(values, message):
    with pytest.raises(UserError, match=message):
        OptunaSearch().check(Table({"batch": ("64",)}), options(**values))


def test_sweeps_that_cannot_be_searched():
    with pytest.raises(UserError, match=r"trial: search=optuna draws the settings itself"):
        OptunaSearch().check(Table({"trial": ("0", "1")}), options())
    with pytest.raises(UserError, match=r"nothing to search in batch=64.*an interval such as"):
        OptunaSearch().check(Table({"batch": ("64", "512")}, {}), options())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("optbench.data.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"search=optuna: needs optuna, cmaes.*pip install 'optbench\[optuna\]'"):
        OptunaSearch().check(Table({"batch": ("64",)}), options())


def test_names_of_samplers_and_pruners():
    assert {"tpe", "gp", "cmaes", "random", "qmc", "nsgaii", "brute_force"} <= set(samplers())
    assert {"none", "median", "percentile", "successive_halving", "hyperband", "threshold", "wilcoxon"} <= set(
        pruners()
    )


# ---- words ----


@pytest.mark.parametrize(
    ("entry", "drawn", "word"),
    [
        (LOG, 0.0123456789, "0.0123457"),
        (LOG, 1e-4, "0.0001"),
        ({**LOG, "low": 1e-7}, 1.23456789e-6, "1.23457e-06"),
        ({"distribution": "uniform", "low": -1.0, "high": -0.5}, -0.7, "-0.7"),
        ({"distribution": "log_uniform_complement", "low": 1e-4, "high": 0.5}, 0.000123456, "0.999876544"),
        ({"distribution": "integer", "low": 1, "high": 9}, 4, "4"),
        ({"distribution": "categorical", "choices": [1.5, 3, "x"]}, "3", "3"),
        ({"distribution": "categorical", "choices": [True, None]}, "null", "null"),
    ],
)
def test_words_are_short_and_go_back(entry, drawn, word):
    one = option("optimizer.x", entry)
    assert one.word(drawn) == word
    back = values_of([one], {"optimizer.x": word})["optimizer.x"]
    assert one.word(back) == word
    assert one.distribution()._contains(one.distribution().to_internal_repr(back))
    assert back == drawn or back == pytest.approx(drawn, rel=1e-5)


def test_listed_numbers_are_in_order():
    one = ListedOption("batch", ("512", "64", "8"))
    assert [one.word(place) for place in range(3)] == ["8", "64", "512"]
    assert one.drawn("512") == 2
    assert ListedOption("optimizer", ("sgd", "adam")).distribution().choices == ("sgd", "adam")

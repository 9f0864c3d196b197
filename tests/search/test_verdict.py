"""search=verdict on pretended runs: seeds until each pair is decided, whatever ends first and whoever is killed."""

import math
import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.statistics.sequential import Rule, verdict
from optbench.errors import UserError
from optbench.sweep.search.method import Choice, Grid, Options, Pick, Seen
from optbench.sweep.search.pairs import settings
from optbench.sweep.search.verdict import SequentialVerdict

METHOD = SequentialVerdict()
DEFAULTS = {
    "goal": "validation_accuracy", "target": None, "pairs": "all", "margin": None, "alpha": 0.05, "beta": 0.2,
    "maximum": 20, "noise": "normal", "deviation": None, "examples": None,
}  # fmt: skip


def options(round_size=4, **values):
    return Options({**DEFAULTS, **values}, round_size=round_size)


@dataclass
class Pretended:
    """A grid of optimizers and seeds whose runs have the values of a function of both."""

    value: object
    optimizers: tuple[str, ...] = ("adam", "muon")
    seeds: int = 20
    higher: bool = True
    absent: tuple[tuple[str, int], ...] = ()
    size: int = 0
    total_steps: int = 0
    grids: list[Grid] = field(init=False)

    def __post_init__(self):
        self.grids = [Grid("", {"optimizer": self.optimizers, "seed": tuple(map(str, range(self.seeds)))})]

    def exists(self, pick):
        return (pick.cell["optimizer"], int(pick.cell["seed"])) not in self.absent

    def steps(self, pick):
        return 100

    def search_space(self, pick):
        return {}

    def run(self, pick, number):
        found = self.value(pick.cell["optimizer"], int(pick.cell["seed"]))
        if isinstance(found, Seen):
            return replace(found, pick=pick, round=number)
        return Seen(pick, number, "done", found, steps=100, planned=100)


def diverged(first=0.1, **known):
    return Seen(Pick({}), 0, "diverged", first=first, **known)


FAILED = Seen(Pick({}), 0, "failed")


def searched(problem, asked, shuffled=None):
    """A search from begin to end as workers make it: (runs, rounds, why). A round is chosen without the results of the last."""
    seen, rounds = [], 0
    while True:
        masked = [Seen(run.pick, run.round, "waiting", planned=100) if run.round == rounds - 1 else run for run in seen]
        choice = METHOD.choose(problem, masked, asked)
        if not choice.picks:
            choice = METHOD.choose(problem, seen, asked)
        if not choice.picks:
            return seen, rounds, choice.why
        new = [problem.run(pick, rounds) for pick in choice.picks]
        if shuffled:
            shuffled.shuffle(new)
        seen += new
        rounds += 1
        assert rounds < 100


def noisy(differences=(0.0, 0.0), seed=1, deviation=0.004):
    """Accuracies with noise of half a point; differences in points for each optimizer in turn."""
    shift = dict(zip(("adam", "muon", "sgd", "lion"), differences, strict=False))

    def value(optimizer, number):
        draw = np.random.default_rng([seed, number, len(optimizer), ord(optimizer[0])]).standard_normal()
        return 0.9 + shift[optimizer] / 100 + deviation * draw

    return value


def row(problem, asked, seen):
    found = METHOD.answer(problem, seen, asked)
    assert len(found.rows) == 1
    return found.rows[0]


@pytest.mark.parametrize(
    ("differences", "margin", "outcome", "why"),
    [
        ((2.0, 0.0), None, "better", "the pair is decided"),
        ((0.0, 2.0), None, "worse", "the pair is decided"),
        ((0.0, 0.0), 1.0, "within", "the pair is decided"),
        ((0.0, 0.0), None, "undecided", "1 of 1 pairs undecided after all 20 seeds"),
    ],
)
def test_the_four_ends(differences, margin, outcome, why):
    problem, asked = Pretended(noisy(differences)), options(margin=margin)
    seen, _, said = searched(problem, asked)
    assert said == why
    found = row(problem, asked, seen)
    assert found["outcome"] == outcome
    assert (found["first"], found["second"], found["unit"]) == ("adam", "muon", "points")
    if outcome != "undecided":
        assert len(seen) < 30
    else:
        assert len(seen) == 40


def test_the_verdict_is_that_of_the_differences_of_equal_seeds_in_points():
    problem, asked = Pretended(noisy((1.0, 0.0))), options(margin=0.5, maximum=16)
    seen, _, _ = searched(problem, asked)
    found = row(problem, asked, seen)
    adam, muon = ([100 * problem.value(name, seed) for seed in range(16)] for name in ("adam", "muon"))
    expected = verdict(np.subtract(adam, muon), Rule(margin=0.5, maximum=16))
    assert found["outcome"] == expected.outcome == "better"
    for name in ("estimate", "low", "high", "e", "e_within", "n", "maximum"):
        assert found[name] == pytest.approx(getattr(expected, name)), name
    assert found["rho"] == pytest.approx(stats.pearsonr(adam[: found["n"]], muon[: found["n"]]).statistic)


def test_a_lower_loss_is_better_and_the_estimate_keeps_its_sign():
    def value(name, seed):
        return (1.0 if name == "adam" else 2.0) + 0.1 * math.sin(7 * seed * seed + ord(name[0]))

    problem, asked = Pretended(value, higher=False), options(goal="validation_loss")
    seen, _, _ = searched(problem, asked)
    found = row(problem, asked, seen)
    assert found["outcome"] == "better"
    assert found["low"] < found["estimate"] < found["high"] < 0
    assert found["estimate"] == pytest.approx(-1, abs=0.2)
    assert "adam is better" in METHOD.answer(problem, seen, asked).line


def test_the_sentence_of_the_live_table():
    values = {"adam": [0.912, 0.905, 0.913, 0.901, 0.908], "muon": [0.913, 0.911, 0.912, 0.909, 0.912]}
    problem = Pretended(lambda name, seed: values[name][seed], seeds=5)
    asked = options()
    assert METHOD.answer(problem, [], asked).line == "adam - muon: no seed has ended yet"
    seen, _, _ = searched(problem, asked)
    assert (
        METHOD.answer(problem, seen, asked).line == "adam - muon: -0.36 [-1.74, 1.02] points after 5 seeds: undecided"
    )
    assert METHOD.answer(problem, seen[:4], asked).line == "adam - muon: -0.35 points after 2 seeds: undecided"
    assert METHOD.answer(problem, seen[:2], options(goal="auto")).line == "adam - muon: -0.001 after 1 seed: undecided"


@pytest.mark.parametrize("workers", [1, 4, 9])
def test_choices_depend_neither_on_the_order_of_ends_nor_on_how_often_one_asks(workers):
    problem, asked = Pretended(noisy((0.4, 0.0, 0.1)), ("adam", "muon", "sgd")), options(workers, margin=1.0)
    seen, rounds, why = searched(problem, asked)
    again, rounds_again, why_again = searched(problem, asked, random.Random(3))
    assert (rounds, why) == (rounds_again, why_again)
    assert [
        sorted(map(str, (run.pick for run in runs if run.round == k))) for runs in (seen,) for k in range(rounds)
    ] == [sorted(map(str, (run.pick for run in again if run.round == k))) for k in range(rounds)]
    # A killed search asks the same question again.
    for number in range(rounds):
        known = [run for run in seen if run.round < number]
        masked = [replace(run, state="waiting", value=None) if run.round == number - 1 else run for run in known]
        asked_again = METHOD.choose(problem, masked, asked).picks or METHOD.choose(problem, known, asked).picks
        assert list(asked_again) == [run.pick for run in seen if run.round == number]


def test_seeds_that_end_after_the_verdict_do_not_change_it():
    problem, asked = Pretended(noisy((1.2, 0.0))), options()
    seen, _, _ = searched(problem, asked)
    decided = row(problem, asked, seen)
    late = [problem.run(setting.pick(str(seed)), 9) for seed in range(20) for setting in settings(problem)]
    assert repr(row(problem, asked, late)) == repr(decided)
    assert decided["outcome"] == "better"


def test_a_seed_that_is_waited_for_ends_the_prefix():
    problem, asked = Pretended(noisy((2.0, 0.0))), options()
    runs = [problem.run(setting.pick(str(seed)), 0) for seed in range(10) for setting in settings(problem)]
    held_up = [replace(run, state="waiting", value=None) if k == 6 else run for k, run in enumerate(runs)]
    assert row(problem, asked, held_up)["n"] == 3
    assert METHOD.choose(problem, held_up, asked) == Choice()


def test_no_run_is_trained_for_a_pair_that_is_decided():
    for shift in (0.7, 1.0, 2.0):
        problem, asked = Pretended(noisy((shift, 0.0))), options(2)
        seen, _, _ = searched(problem, asked)
        assert len(seen) == 2 * row(problem, asked, seen)["n"]


def test_the_first_seeds_are_chosen_without_waiting():
    problem, asked = Pretended(noisy()), options(2)
    runs = [Seen(setting.pick(str(seed)), seed, "waiting") for seed in range(20) for setting in settings(problem)]
    assert [len(METHOD.choose(problem, runs[: 2 * n], asked).picks) for n in range(6)] == [2, 2, 2, 2, 0, 0]


def test_a_decided_setting_gets_no_more_seeds():
    problem = Pretended(noisy((0.0, 0.0, 6.0)), ("adam", "muon", "sgd"))
    asked = options()
    seen, _, why = searched(problem, asked)
    count = {name: sum(run.pick.cell["optimizer"] == name for run in seen) for name in problem.optimizers}
    assert count["adam"] == count["muon"] == 20
    assert count["sgd"] < 10
    assert why == "1 of 3 pairs undecided after all 20 seeds"
    assert METHOD.answer(problem, seen, asked).line.startswith("2 of 3 pairs decided; adam - muon: ")


def test_alpha_is_shared_among_the_pairs():
    problem = Pretended(noisy((0.3, 0.0, 0.0, 0.0)), ("adam", "muon", "sgd", "lion"))
    first = METHOD._compared(problem, [], options(pairs="first"))
    assert [(pair.first.name, pair.second.name) for pair in first] == [
        ("adam", name) for name in ("muon", "sgd", "lion")
    ]
    assert {pair.rule.alpha for pair in first} == {0.05 / 3}
    every = METHOD._compared(problem, [], options())
    assert len(every) == 6
    assert {pair.rule.alpha for pair in every} == {0.05 / 6}


def test_a_diverged_run_counts_as_chance():
    def value(name, seed):
        return diverged() if name == "adam" and seed in (1, 3) else 0.9 + 0.001 * math.sin(7 * seed + len(name) * 2)

    problem, asked = Pretended(value, seeds=8), options()
    seen, _, _ = searched(problem, asked)
    found = row(problem, asked, seen)
    assert found["n"] == 8
    clean = [100 * (0.9 + 0.001 * math.sin(7 * seed + 8)) for seed in range(8)]
    expected = np.subtract([10 if seed in (1, 3) else clean[seed] for seed in range(8)], clean)
    assert found["estimate"] == pytest.approx(expected.mean())
    assert (found["failures_first"], found["failures_second"]) == (2, 0)
    assert found["failures_p"] == pytest.approx(stats.fisher_exact([[2, 6], [0, 8]]).pvalue)
    assert (found["estimate_trained"], found["n_trained"]) == (pytest.approx(0.0), 6)
    assert "(2 and 0 of 8 runs failed)" in METHOD.answer(problem, seen, asked).line


def test_a_run_that_diverged_at_an_unknown_start_counts_as_the_worst_so_far():
    def value(name, seed):
        return diverged(first=None) if name == "adam" and seed == 2 else 0.5 + 0.01 * seed + 0.1 * (name == "muon")

    problem, asked = Pretended(value, seeds=6), options()
    seen, _, _ = searched(problem, asked)
    # adam: .50 .51 (.50) .53 .54 .55; muon: .60 ... .65
    assert row(problem, asked, seen)["estimate"] == pytest.approx(-100 * (5 * 0.1 + 0.12) / 6)
    states = [row(problem, asked, [run for run in seen if int(run.pick.cell["seed"]) < n]) for n in range(1, 7)]
    decided = [found["n"] for found in states if found["outcome"] != "undecided"]
    assert set(decided) <= {decided[0]} if decided else True


def test_a_failed_run_has_no_outcome_and_its_seed_is_left_out():
    def value(name, seed):
        return FAILED if (name, seed) == ("muon", 1) else 0.9 + 0.001 * seed * (1 + (name == "adam"))

    problem, asked = Pretended(value, seeds=6), options()
    seen, _, _ = searched(problem, asked)
    found = row(problem, asked, seen)
    assert found["n"] == 5
    assert found["estimate"] == pytest.approx(0.1 * (0 + 2 + 3 + 4 + 5) / 5)
    assert (found["failures_first"], found["failures_second"]) == (0, 1)


def test_a_setting_whose_first_runs_all_fail_is_given_up():
    problem = Pretended(lambda name, seed: FAILED if name == "muon" else 0.9 + 0.01 * seed)
    seen, _, why = searched(problem, options())
    assert why == "the pair is decided"
    assert len(seen) <= 12
    assert row(problem, options(), seen)["outcome"] == "failed"
    assert "no run of one of them has an outcome" in METHOD.answer(problem, seen, options()).line


def test_a_cell_that_the_experiment_excludes_is_passed_over():
    problem, asked = Pretended(noisy(), absent=(("muon", 0), ("muon", 5), ("adam", 5))), options()
    seen, _, _ = searched(problem, asked)
    assert len({str(run.pick) for run in seen}) == len(seen) == 37
    assert row(problem, asked, seen)["n"] == 18


def reached(time):
    return Seen(Pick({}), 0, "done", float(time), planned=100)


def missed(time):
    return Seen(Pick({}), 0, "done", float(time), censored=True, planned=100)


def test_times_are_compared_by_restricted_means():
    adam = [20, 35, 28, 41, 30, 33, 26, 38]
    muon = [60, missed(100), 75, 58, missed(100), 81, 66, 90]

    def value(name, seed):
        return (
            reached(adam[seed])
            if name == "adam"
            else muon[seed]
            if isinstance(muon[seed], Seen)
            else reached(muon[seed])
        )

    # A problem whose accuracy is better if it is higher; its time is better if it is lower.
    problem, asked = Pretended(value, seeds=8), options(target=0.9)
    seen, _, _ = searched(problem, asked)
    found = row(problem, asked, seen)
    n = found["n"]
    capped = [time.value if isinstance(time, Seen) else time for time in muon]
    assert found["estimate"] == pytest.approx(np.subtract(adam, capped)[:n].mean())
    assert (found["outcome"], found["unit"]) == ("better", "steps")
    assert (found["reached_first"], found["reached_second"]) == (n, sum(not isinstance(t, Seen) for t in muon[:n]))
    assert found["logrank_p"] < 0.05


def test_a_run_without_a_time_counts_as_the_least_horizon():
    def value(name, seed):
        if name == "adam":
            return Seen(Pick({}), 0, "diverged") if seed == 0 else reached(50 + seed)
        return missed(80) if seed == 1 else reached(90 + seed)

    problem, asked = Pretended(value, seeds=4), options(target=0.9)
    seen, _, _ = searched(problem, asked)
    assert row(problem, asked, seen)["estimate"] == pytest.approx(np.mean([0, 51 - 80, 52 - 80, 53 - 80]))


def test_the_horizon_of_later_seeds_does_not_change_a_verdict():
    def value(name, seed):
        return reached(50 + seed) if name == "adam" else missed(40 if seed == 9 else 100 + 10 * seed)

    problem, asked = Pretended(value), options(target=0.9)
    runs = [problem.run(setting.pick(str(seed)), 0) for seed in range(10) for setting in settings(problem)]
    decided = row(problem, asked, runs)
    # The least horizon of the first five seeds is 100; that of ten is 40, at which no run has reached the target.
    assert (decided["outcome"], decided["n"], decided["estimate"]) == ("better", 5, pytest.approx(52 - 100))
    assert repr(row(problem, asked, runs[:10])) == repr(decided)


def test_names_say_what_varies():
    problem = Pretended(noisy())
    problem.grids = [Grid("", {"optimizer": ("adam",), "optimizer.learning_rate": ("0.1", "0.2"), "seed": ("0",)})]
    assert [setting.name for setting in settings(problem)] == ["0.1", "0.2"]
    problem.grids = [
        Grid("", {"optimizer": ("adam", "sgd"), "optimizer.learning_rate": ("0.1", "0.2"), "seed": ("0",)})
    ]
    assert settings(problem)[1].name == "optimizer=adam learning_rate=0.2"
    problem.grids = [Grid("a", {"batch": ("8",), "seed": ("0",)}), Grid("b", {"batch": ("8",), "seed": ("0",)})]
    assert [setting.name for setting in settings(problem)] == ["a", "b"]
    problem.grids = [Grid("a", {"batch": ("8",), "seed": ("0",)}), Grid("b", {"trial": ("1",), "seed": ("0",)})]
    assert [setting.name for setting in settings(problem)] == ["batch=8", "trial=1"]


def test_curves_have_the_state_after_each_seed():
    problem, asked = Pretended(noisy((0.8, 0.0))), options()
    seen, _, _ = searched(problem, asked)
    answer = METHOD.answer(problem, seen, asked)
    assert [point["n"] for point in answer.surrogate] == list(range(2, answer.rows[0]["n"] + 1))
    assert {name: answer.surrogate[-1][name] for name in ("estimate", "low", "high")} == {
        name: answer.rows[0][name] for name in ("estimate", "low", "high")
    }


@pytest.mark.parametrize(
    ("axes", "values", "message"),
    [
        ({"optimizer": ("adam", "muon")}, {}, "seed: search=verdict adds seeds"),
        ({"optimizer": ("adam", "muon"), "seed": ("0", "1", "2")}, {}, "seed: 3 values"),
        ({"optimizer": ("adam",), "seed": tuple("01234")}, {}, "one setting"),
        ({"trial": tuple(map(str, range(40))), "seed": tuple("01234")}, {}, "780 pairs"),
        ({"optimizer": ("a", "b"), "seed": tuple("01234")}, {"noise": "symmetric"}, "search.deviation=null"),
        ({"optimizer": ("a", "b"), "seed": tuple("01234")}, {"examples": 5, "goal": "auto"}, "search.examples=5"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(axes, values, message):
    problem = Pretended(noisy())
    problem.grids = [Grid("", axes)]
    with pytest.raises(UserError, match=message):
        METHOD.check(problem, options(**values))


def test_an_interval_is_refused_and_a_grid_is_accepted():
    problem = Pretended(noisy())
    METHOD.check(problem, options())
    METHOD.check(problem, options(noise="symmetric", deviation=0.5, examples=360))
    problem.grids = [replace(problem.grids[0], intervals={"optimizer.learning_rate": {"low": 0.1}})]
    with pytest.raises(UserError, match="learning_rate: search=verdict"):
        METHOD.check(problem, options())

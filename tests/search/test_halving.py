"""search=halving, as a function of what was seen: no run is trained here."""

import math
import random
from dataclasses import replace

import pytest
import yaml

from optbench.config import conf_dir
from optbench.errors import UserError
from optbench.sweep.search.halving import Halving
from optbench.sweep.search.method import Grid, Options, Pick, Seen

METHOD = Halving()
DEFAULTS = {
    name: value
    for file in ("_rounds", "halving")
    for name, value in yaml.safe_load((conf_dir() / "search" / f"{file}.yaml").read_text()).items()
    if name not in ("defaults", "name", "info")
}
STEPS = 27  # of a run, evaluated after each of them


def options(round_size=4, **values):
    return Options({**DEFAULTS, **values}, 0, round_size)


class Table:
    """A problem whose runs were trained before: ``losses(cell, step)`` is the goal after a step.

    ended: by cell, "failed" or "diverged", and the step at which it ended so.
    """

    higher = False

    def __init__(self, losses, ended=None, excluded=(), period=1, steps=STEPS, **axes):
        self.grids = [Grid("", {name: tuple(map(str, values)) for name, values in axes.items()})]
        self._losses, self._ended, self._excluded = losses, ended or {}, excluded
        self._period, self._steps = period, steps
        self.asked = 0

    @property
    def size(self):
        return sum(grid.size for grid in self.grids)

    def exists(self, pick):
        self.asked += 1
        return tuple(pick.cell.values()) not in self._excluded

    def steps(self, pick):
        return self._steps

    def rungs(self, pick, shares):
        found = [-(-math.ceil(share * self._steps - 1e-9) // self._period) * self._period for share in shares]
        if sorted({0, *found, self._steps}) != [0, *found, self._steps]:
            raise UserError("eval_every=...: evaluated too seldom")
        return found

    def train(self, pick):
        """The result of a run that is trained as far as it was chosen."""
        until = self._steps if pick.until is None else pick.until
        state, stop = self._ended.get(tuple(pick.cell.values()), ("done", self._steps))
        if stop > until or (stop == until and state == "done" and pick.until is not None):
            state, stop = "paused", until
        steps = [*range(self._period, stop + (state == "paused"), self._period), *([stop] if state == "done" else [])]
        evaluations = tuple((step, self._losses(pick.cell, step)) for step in steps)
        value = evaluations[-1][1] if evaluations and state in ("done", "paused") else None
        return Seen(pick, 0, state, value, evaluations=evaluations, steps=stop, planned=self._steps)


def search(problem, given, order=None, kills=False):
    """Ask and train until it is over, as the driver does; returns all that was seen, and the picks of each round."""
    seen, rounds, waiting, draw = {}, [], {}, random.Random(order)
    for _ in range(500):
        shown = [replace(each, round=number) for number, each in enumerate({**seen, **waiting}.values())]
        choice = METHOD.choose(problem, shown, given)
        if kills:
            assert METHOD.choose(problem, shown, given) == choice
        if choice.why:
            return list(seen.values()), rounds, choice.why
        # The round before is over; that of now goes on.
        seen |= {key: problem.train(each.pick) for key, each in waiting.items()}
        keys = [frozenset(pick.cell.items()) for pick in choice.picks]
        assert len(set(keys)) == len(keys)
        now = dict(zip(keys, choice.picks, strict=True))
        waiting = {}
        for key in draw.sample(keys, len(keys)) if order is not None else keys:
            before = problem.train(now[key])  # it may be trained by now, which the method is not shown
            waiting[key] = replace(before, state="waiting", value=None)
        seen = {key: each for key, each in seen.items() if key not in waiting}
        if choice.picks:
            rounds.append(choice.picks)
    raise AssertionError("it never ends")


def trial(pick):
    return int(pick.cell["trial"])


def untils(rounds):
    """By trial, the steps to which it was chosen to go, one after another."""
    found = {}
    for pick in (pick for picks in rounds for pick in picks):
        found.setdefault(trial(pick), []).append(pick.until)
    return found


def by_trial(cell, step):
    """Trial 0 is the best one, at each step."""
    return int(cell["trial"]) + 10 / step


# ---- what is chosen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_size", [1, 4, 1000])
def test_27_settings_by_hand(round_size):
    """Factor 3: 27 to step 1, 9 to step 3, 3 to step 9, 1 to the end."""
    problem = Table(by_trial, trial=range(27))
    seen, rounds, why = search(problem, options(round_size))
    assert untils(rounds) == {
        number: [1, 3, 9, None] if number < 1 else [1, 3, 9] if number < 3 else [1, 3] if number < 9 else [1]
        for number in range(27)
    }
    assert why == "its bracket is decided"
    assert max(map(len, rounds)) == min(round_size, 27)
    # n r for each rung, r the steps since the one before.
    assert sum(each.steps for each in seen) == 27 * 1 + 9 * 2 + 3 * 6 + 1 * 18 == 81
    answer = METHOD.answer(problem, seen, options())
    assert answer.line == "trial=0 is the best of 27 settings, 0.3704 at the end"


@pytest.mark.parametrize(
    ("settings", "factor", "rungs", "numbers"),
    [
        (64, 3, "auto", [64, 21, 7, 2]),
        (64, 4, "auto", [64, 16, 4, 1]),
        (26, 3, "auto", [26, 8, 2]),
        (8, 2, "auto", [8, 4, 2, 1]),
        (9, 3, 2, [9, 3]),
        (5, 2, 4, [5, 2, 1, 1]),
    ],
)
def test_the_number_of_settings_and_steps_is_the_closed_form(settings, factor, rungs, numbers):
    steps = factor ** (len(numbers) - 1) * 5
    problem = Table(by_trial, trial=range(settings), seed=range(2), steps=steps)
    seen, rounds, _ = search(problem, options(16, factor=factor, rungs=rungs))
    at = [5 * factor**k for k in range(len(numbers) - 1)] + [None]
    picks = [pick for picks in rounds for pick in picks]
    assert [sum(pick.until == until for pick in picks) for until in at] == [2 * number for number in numbers]
    lengths = [5, *(5 * factor**k - 5 * factor ** (k - 1) for k in range(1, len(numbers)))]
    assert sum(each.steps for each in seen) == 2 * sum(map(math.prod, zip(numbers, lengths, strict=True)))


def test_the_first_rung_may_be_given():
    problem = Table(by_trial, trial=range(9), steps=100)
    _, rounds, _ = search(problem, options(first=0.2))
    assert untils(rounds)[0] == [20, 60, None]
    assert untils(rounds)[8] == [20]


def test_rungs_are_evaluations_and_as_many_as_there_are():
    """Evaluations after 10, 20 and 27 of 27 steps: shares 1/27, 1/9 and 1/3 of a run would all end at the first one."""
    problem = Table(by_trial, trial=range(27), period=10)
    seen, rounds, _ = search(problem, options())
    assert {(row["rung"], row["steps"]) for row in METHOD.answer(problem, seen, options()).rows} == {(1, 10), (2, 27)}
    assert untils(rounds)[0] == [10, None]
    assert untils(rounds)[8] == [10, None]
    assert untils(rounds)[9] == [10]


def test_a_rung_compares_the_evaluation_there_and_not_the_best_so_far():
    def losses(cell, step):
        return {"0": 1.0, "1": 0.0 if step < 9 else 2.0, "2": 3.0}[cell["trial"]]

    problem = Table(losses, trial=range(3))
    seen, rounds, _ = search(problem, options())
    assert untils(rounds) == {0: [9, None], 1: [9], 2: [9]}
    assert [row["value"] for row in METHOD.answer(problem, seen, options()).rows] == [1.0, 2.0, 3.0, 1.0]


def test_settings_that_tie_are_taken_in_the_order_of_the_grid():
    _, rounds, _ = search(Table(lambda cell, step: 1.0, trial=[5, 2, 9, 0, 1, 7]), options())
    assert sorted(key for key, value in untils(rounds).items() if None in value) == [2, 5]


def test_larger_is_better_for_an_accuracy():
    problem = Table(by_trial, trial=range(9))
    problem.higher = True
    seen, rounds, _ = search(problem, options())
    assert [number for number, until in untils(rounds).items() if None in until] == [8]
    assert METHOD.answer(problem, seen, options()).line.startswith("trial=8 is the best of 9 settings, 8.37 at the end")


def test_a_setting_is_judged_by_the_mean_over_its_seeds():
    table = {("0", "0"): 0.0, ("0", "1"): 10.0, ("1", "0"): 4.0, ("1", "1"): 5.0, ("2", "0"): 9.0, ("2", "1"): 9.0}
    problem = Table(lambda cell, step: table[cell["trial"], cell["seed"]], trial=range(3), seed=range(2))
    _, rounds, _ = search(problem, options())
    assert untils(rounds) == {0: [9, 9], 1: [9, 9, None, None], 2: [9, 9]}


def test_a_setting_with_a_seed_that_diverged_is_the_worst():
    ended = {("0", "1"): ("diverged", 5)}
    problem = Table(by_trial, ended, trial=range(6), seed=range(2))
    seen, rounds, _ = search(problem, options())
    assert sorted(key for key, value in untils(rounds).items() if None in value) == [1, 2]
    [row] = [row for row in METHOD.answer(problem, seen, options()).rows if row["setting"] == "trial=0"]
    assert (row["rank"], row["value"], row["diverged"], row["promoted"]) == (6, None, 1, False)


def test_a_run_that_diverges_after_a_rung_was_compared_there_and_has_ended():
    problem = Table(by_trial, {("0",): ("diverged", 5)}, trial=range(27))
    seen, rounds, _ = search(problem, options())
    assert untils(rounds)[0] == [1, 3, 9]
    assert untils(rounds)[1] == [1, 3, 9, None]
    rows = METHOD.answer(problem, seen, options()).rows
    assert [row["rank"] for row in rows if row["setting"] == "trial=0"] == [1, 1, 3]


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_where_all_end_badly_nothing_goes_on(state):
    problem = Table(by_trial, {(str(number),): (state, 3) for number in range(9)}, trial=range(9))
    seen, rounds, why = search(problem, options(first=0.2))
    assert all(value == [6] for value in untils(rounds).values())
    assert why == "its bracket is decided"
    left = METHOD.answer(problem, seen, options(first=0.2)).line
    assert left.startswith("none of 9 settings is left")


def test_a_failed_run_is_left_out_and_said():
    """Trial 0 is judged by its other seed, trial 1 by none."""
    ended = {("0", "1"): ("failed", 2), ("1", "0"): ("failed", 0), ("1", "1"): ("failed", 1)}
    problem = Table(by_trial, ended, trial=range(6), seed=range(2))
    seen, rounds, _ = search(problem, options())
    assert untils(rounds) == {0: [9, 9, None], 1: [9, 9], 2: [9, 9, None, None], 3: [9, 9], 4: [9, 9], 5: [9, 9]}
    answer = METHOD.answer(problem, seen, options())
    assert answer.line.endswith("; 3 failed runs are left out")
    assert {row["setting"] for row in answer.rows} == {"trial=0", "trial=2", "trial=3", "trial=4", "trial=5"}
    assert [row["failed"] for row in answer.rows if row["setting"] == "trial=0"] == [1, 1]


def test_a_run_that_reaches_its_target_before_a_rung_counts_as_it_ended():
    problem = Table(by_trial, {("4",): ("done", 2)}, trial=range(9))
    train = problem.train
    problem.train = lambda pick: replace(seen, value=-1.0) if trial(seen := train(pick)) == 4 else seen

    def trial(each):
        return int(each.pick.cell["trial"])

    _, rounds, _ = search(problem, options())
    assert untils(rounds)[4] == [3, 9, None]


# ---- new seeds of the best setting -----------------------------------------------------------------------------------------


def ends(rounds):
    """The (trial, seed) of the runs that were chosen to go to their end, in the order of choice."""
    return [(trial(pick), int(pick.cell["seed"])) for picks in rounds for pick in picks if pick.until is None]


def test_one_rung_trains_all_settings_to_their_end_and_new_seeds_follow_by_hand():
    """Trial 2 is the best with seed 0; the others of its seeds are the worst there are, and move nothing."""
    table = {"0": 3.0, "1": 2.0, "2": 1.0, "3": 4.0}
    problem = Table(lambda cell, step: table[cell["trial"]] + 10 * int(cell["seed"]), trial=range(4), seed=range(3))
    given = options(rungs=1, confirm=2, confirm_defaults=True)
    seen, rounds, why = search(problem, given)
    assert ends(rounds) == [(0, 0), (1, 0), (2, 0), (3, 0), (2, 1), (2, 2), (0, 1), (0, 2)]
    assert why == "its bracket is decided"
    answer = METHOD.answer(problem, seen, given)
    assert answer.line == "trial=2 is the best of 4 settings, 1 at the end; 16 with 2 new seeds"
    assert [row["rank"] for row in answer.rows] == [1, 2, 3, 4]
    assert ends(search(problem, options(rungs=1, confirm=2))[1])[4:] == [(2, 1), (2, 2)]


def test_several_seeds_may_compete_before_the_new_ones():
    table = {"0": (1.0, 9.0), "1": (4.0, 4.0), "2": (7.0, 7.0)}
    problem = Table(lambda cell, step: (*table[cell["trial"]], 0.0)[int(cell["seed"])], trial=range(3), seed=range(3))
    _, rounds, _ = search(problem, options(rungs=1, confirm=1))
    assert ends(rounds)[-1] == (1, 2)
    assert len(ends(rounds)) == 7


def test_defaults_that_are_the_best_are_confirmed_once():
    problem = Table(by_trial, trial=range(4), seed=range(3))
    _, rounds, _ = search(problem, options(rungs=1, confirm=2, confirm_defaults=True))
    assert ends(rounds)[4:] == [(0, 1), (0, 2)]


def test_where_no_setting_trains_only_the_defaults_are_confirmed():
    ended = {(str(number), "0"): ("diverged", 3) for number in range(4)}
    problem = Table(by_trial, ended, trial=range(4), seed=range(3))
    assert ends(search(problem, options(rungs=1, confirm=2))[1])[4:] == []
    assert ends(search(problem, options(rungs=1, confirm=2, confirm_defaults=True))[1])[4:] == [(0, 1), (0, 2)]


def test_new_seeds_come_only_once_the_bracket_is_decided():
    problem = Table(by_trial, trial=range(3), seed=range(2))
    given = options(8, rungs=1, confirm=1, confirm_defaults=True)
    seen = [problem.train(Pick({"trial": str(number), "seed": "0"})) for number in range(3)]
    waiting = [*seen[:2], replace(seen[2], state="waiting", value=None)]
    assert METHOD.choose(problem, waiting, given).picks == ()
    assert METHOD.choose(problem, waiting, given).why == ""
    assert [trial(pick) for pick in METHOD.choose(problem, seen, given).picks] == [0]


def test_a_new_seed_that_failed_or_is_excluded_is_not_chosen_again():
    problem = Table(by_trial, {("0", "1"): ("failed", 2)}, excluded={("0", "2")}, trial=range(3), seed=range(4))
    given = options(rungs=1, confirm=3)
    seen, rounds, _ = search(problem, given)
    assert ends(rounds)[3:] == [(0, 1), (0, 3)]
    assert METHOD.answer(problem, seen, given).line.startswith(
        "trial=0 is the best of 3 settings, 0.3704 at the end; 0.37"
    )


@pytest.mark.parametrize("number", range(30))
def test_new_seeds_change_no_choice_and_every_best_setting_has_them(number):
    """Random tables, sizes and ends: the runs of the competing seeds are those of the search without new ones."""
    draw = random.Random(number)
    trials, competing, confirm, factor = (draw.randint(*bounds) for bounds in ((2, 12), (1, 3), (1, 4), (2, 3)))
    rungs = draw.choice([1, 2, 3])
    factor = min(factor, trials)

    def losses(cell, step):
        return random.Random(f"{number} {sorted(cell.items())} {step}").random()

    axes = {"optimizer": ["adam", "sgd"], "trial": range(trials)}
    cells = [(name, str(one), str(seed)) for name in axes["optimizer"] for one in range(trials) for seed in range(9)]
    ended = {cell: (draw.choice(["diverged", "failed"]), draw.randint(0, STEPS - 1)) for cell in draw.sample(cells, 20)}
    given = {"rungs": rungs, "factor": factor}
    plain = search(Table(losses, ended, **axes, seed=range(competing)), options(5, **given))[1]
    problem = Table(losses, ended, **axes, seed=range(competing + confirm))
    more = options(5, **given, confirm=confirm, confirm_defaults=True)
    seen, rounds, _ = search(problem, more, order=number, kills=True)
    picks = [pick for picks in rounds for pick in picks]
    old = {(frozenset(pick.cell.items()), pick.until) for picks in plain for pick in picks}
    assert {(frozenset(pick.cell.items()), pick.until) for pick in picks if int(pick.cell["seed"]) < competing} == old
    new = {(pick.cell["optimizer"], pick.cell["trial"]) for pick in picks if int(pick.cell["seed"]) >= competing}
    rows = METHOD.answer(problem, seen, more).rows
    last = [row for row in rows if row["rung"] == rungs and row["rank"] == 1 and row["value"] is not None]
    best = {tuple(word.partition("=")[2] for word in (row["bracket"], row["setting"])) for row in last}
    assert new == best | {(name, "0") for name in axes["optimizer"]}
    assert len([pick for pick in picks if int(pick.cell["seed"]) >= competing]) == confirm * len(new)


# ---- brackets ----------------------------------------------------------------------------------------------------------------


def test_settings_compete_within_an_optimizer_by_default_and_within_what_is_asked_for():
    def losses(cell, step):
        return int(cell["trial"]) + 100 * (cell["optimizer"] == "sgd") + int(cell["batch"])

    def ends(**given):
        problem = Table(losses, optimizer=["adam", "sgd"], batch=[1, 2], trial=range(3))
        _, rounds, why = search(problem, options(**given))
        picks = [pick for picks in rounds for pick in picks]
        return {tuple(pick.cell.values()) for pick in picks if pick.until is None}, why

    both, why = ends()
    assert both == {(name, *rest) for name in ("adam", "sgd") for rest in (("1", "0"), ("1", "1"))}
    assert why == "all 2 brackets are decided"
    assert ends(within=["optimizer", "batch"])[0] == {(name, batch, "0") for name in ("adam", "sgd") for batch in "12"}
    assert len(ends(within=[])[0]) == 1


def test_a_bracket_whose_rung_is_complete_goes_on_while_others_begin():
    problem = Table(by_trial, optimizer=["adam", "sgd"], trial=range(9))
    _, rounds, _ = search(problem, options(3))
    order = [(pick.cell["optimizer"], pick.until) for picks in rounds for pick in picks]
    assert order.index(("adam", 9)) < max(place for place, each in enumerate(order) if each == ("sgd", 3))


def test_the_answer_of_many_brackets_is_their_number():
    problem = Table(by_trial, optimizer=["a", "b", "c", "d", "e"], trial=range(3))
    seen, _, _ = search(problem, options())
    line = METHOD.answer(problem, seen, options()).line
    assert line == "5 of 5 brackets are decided"
    assert {row["bracket"] for row in METHOD.answer(problem, seen, options()).rows} == {
        f"optimizer={name}" for name in "abcde"
    }


def test_brackets_of_several_grids_are_told_apart():
    problem = Table(by_trial, optimizer=["adam"], trial=range(3))
    problem.grids = [replace(problem.grids[0], name=name) for name in ("digits", "text")]
    rows = METHOD.answer(problem, [problem.train(Pick(cell, name)) for name in ("digits", "text") for cell in (
        {"optimizer": "adam", "trial": str(number)} for number in range(3)
    )], options(rungs=1)).rows  # fmt: skip
    assert {row["bracket"] for row in rows} == {"grid=digits optimizer=adam", "grid=text optimizer=adam"}


def test_cells_that_a_condition_excludes_are_not_chosen_and_do_not_count():
    problem = Table(by_trial, excluded={("0", "0"), ("0", "1"), ("3", "1")}, trial=range(10), seed=range(2))
    _, rounds, _ = search(problem, options())
    picked = untils(rounds)
    assert 0 not in picked
    assert picked[3] == [3, 9]
    assert [number for number, until in picked.items() if None in until] == [1]


def test_only_the_next_picks_are_looked_at():
    problem = Table(by_trial, trial=range(100_000))
    choice = METHOD.choose(problem, [], options(8))
    assert [trial(pick) for pick in choice.picks] == list(range(8))
    assert problem.asked <= 8


# ---- kills, workers, earlier results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(3))
def test_the_choice_does_not_depend_on_the_order_in_which_runs_end_and_is_repeated_after_a_kill(order):
    def losses(cell, step):
        return random.Random(f"{sorted(cell.items())} {step}").random()

    axes = {"optimizer": ["adam", "sgd"], "trial": range(9), "seed": range(2)}
    ended = {("adam", "3", "1"): ("diverged", 4), ("sgd", "2", "0"): ("failed", 2)}
    plain = search(Table(losses, ended, **axes), options(5))
    assert search(Table(losses, ended, **axes), options(5), order, kills=True)[1] == plain[1]


def test_nothing_is_promoted_while_a_run_of_the_rung_waits():
    problem = Table(by_trial, trial=range(3))
    seen = [problem.train(Pick({"trial": str(number)}, until=9)) for number in range(3)]
    assert [trial(pick) for pick in METHOD.choose(problem, seen, options()).picks] == [0]
    waiting = [*seen[:2], replace(seen[2], state="waiting")]
    assert METHOD.choose(problem, waiting, options()).picks == ()
    assert METHOD.choose(problem, waiting, options()).why == ""
    # It was asked to go on, and has not begun to.
    begun = [replace(seen[0], pick=Pick({"trial": "0"})), *seen[1:]]
    assert METHOD.choose(problem, begun, options()).why == ""


def test_what_was_trained_to_its_end_before_is_compared_at_the_rungs_as_well():
    """A grid that was trained before has all evaluations; the search stops at the same settings."""

    def losses(cell, step):
        return int(cell["trial"]) * (1 if step < 20 else -1)

    problem = Table(losses, trial=range(9))
    fresh = search(problem, options())[1]
    train = problem.train
    problem.train = lambda pick: replace(train(Pick(pick.cell)), pick=pick)
    assert search(problem, options())[1] == fresh


def test_the_answer_works_from_the_beginning():
    problem = Table(by_trial, trial=range(9))
    assert METHOD.answer(problem, [], options()).line == "0 of 9 settings begun, 3, 1 of them will go on"
    seen = [problem.train(Pick({"trial": str(number)}, until=3)) for number in range(9)]
    assert METHOD.answer(problem, seen[:2], options()).line.startswith("2 of 9 settings begun, ")
    answer = METHOD.answer(problem, seen, options())
    assert answer.line.startswith("trial=0 is the best of 9 settings, 3.333 at rung 1 of 3")
    assert [(row["rung"], row["steps"], row["rank"]) for row in answer.rows] == [(1, 3, rank) for rank in range(1, 10)]


# ---- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "given", "message"),
    [
        ({"trial": range(9)}, {"target": 0.1}, "search.target=0.1: search=halving compares"),
        ({"trial": range(9)}, {"rungs": 2, "first": 0.1}, "search.rungs=2 and search.first=0.1: each follows"),
        ({"trial": range(9)}, {"within": ["bach"]}, r"search.within=\[bach\]: no such axis"),
        ({"trial": range(9), "seed": range(2)}, {"within": ["seed"]}, r"search.within=\[seed\]: no such axis"),
        ({"trial": range(2), "seed": range(9)}, {}, "search.factor=3: at most 2 settings compete"),
        ({"trial": range(9)}, {"rungs": 4, "period": 9}, "eval_every"),
        ({"trial": range(9)}, {"period": 27}, "eval_every"),
        ({"trial": range(9), "seed": range(5)}, {"confirm": 5}, "search.confirm=5: .* the axis, which has 5;"),
        ({"trial": range(9)}, {"confirm": 1}, "search.confirm=1: .* the axis, which has 0;"),
        (
            {"trial": range(9)},
            {"confirm_defaults": True},
            "search.confirm_defaults=true: has no effect without search.confirm",
        ),
        (
            {"trial": range(1, 9), "seed": range(2)},
            {"confirm": 1, "confirm_defaults": True},
            "no axis trial with the value 0",
        ),
    ],
)
def test_mistakes_are_one_message_before_anything_starts(axes, given, message):
    problem = Table(by_trial, period=given.pop("period", 1), **axes)
    with pytest.raises(UserError, match=message):
        METHOD.check(problem, options(**given))


def test_an_interval_is_refused():
    problem = Table(by_trial, trial=range(9))
    problem.grids[0] = replace(problem.grids[0], intervals={"optimizer.learning_rate": {"distribution": "uniform"}})
    with pytest.raises(
        UserError, match=r"optimizer\.learning_rate: search=halving compares settings that the grid lists"
    ):
        METHOD.check(problem, options())


def test_what_can_work_is_accepted():
    METHOD.check(Table(by_trial, trial=range(9), seed=range(2)), options())
    METHOD.check(Table(by_trial, period=10, trial=range(27)), options())


def test_each_length_of_runs_is_looked_at_once():
    problem = Table(by_trial, batch=[1, 2], trial=range(50))
    looked, rungs = [], problem.rungs
    problem.rungs = lambda pick, shares: looked.append(pick.cell["batch"]) or rungs(pick, shares)
    METHOD.check(problem, options())
    assert set(looked) == {"1", "2"}
    assert len(looked) <= 4

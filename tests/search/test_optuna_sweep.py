"""search=optuna in a real sweep: composed cells, the record, pauses; runs are ended without training."""

import re

import pytest

from optbench.analysis.report import study_page
from optbench.analysis.report.overview import overview
from optbench.analysis.study import Study
from optbench.store import RunLock
from optbench.sweep.grid.again import compose_again
from optbench.sweep.search.asking import Asker, take_searched
from optbench.sweep.search.reading import Search
from optbench.sweep.search.record import Record
from tests.search.searched import picks_of, start

pytest.importorskip("optuna", reason="needs the extra optuna")
pytest.importorskip("cmaes", reason="needs the extra optuna")

WORDS = ["dataset=digits", "model=mlp", "tracker=none", "optimizer=adam", "budget.steps=40", "eval_every=10"]
CHOICE = {
    "name": "optuna",
    "over": None,
    "trials": 5,
    "sampler": "tpe",
    "sampler_options": {},
    "pruner": "none",
    "pruner_options": {},
    "stages": 4,
}


pytestmark = pytest.mark.usefixtures("composed_once")


def loss(config, step):
    return config["optimizer"]["learning_rate"] * (2 - step / 40)


def train(run, until):
    """Write the rows that a worker would, up to a pause at ``until``."""
    config = run.config()
    with RunLock(run.lock):
        begun = len(run.rows())
        for step in range(10 * begun + 10, (until or 40) + 1, 10):
            run.append({"event": "evaluation", "step": step, "validation_loss": loss(config, step)})
        run.flush()
        if until is None or until >= 40:
            value = loss(config, 40)
            run.finish({"status": "done", "steps": 40, "validation_loss": value, "test_loss": value}, "done")
        else:
            run.set_status("paused", step=until)


def play(plan, most=1000):
    """One worker that trains up to ``most`` times."""
    asker = Asker(Search.of(plan))
    for number, claim in enumerate(take_searched(asker, 0, 10**6, lambda: False, lambda asked: None)):
        if number == most:
            claim.lock.release()
            return None
        until = Record.of(plan.path).until()[claim.directory.run_id]
        claim.lock.release()
        train(claim.directory, until)
    return picks_of(plan)


def test_drawn_values_are_those_of_a_run_that_is_typed(tmp_path):
    plan = start(tmp_path, WORDS, choice=CHOICE)
    picks = play(plan)
    assert len(picks) == 5
    for _, cell, run_id in picks[::4]:
        config = plan.directory(run_id).config()
        assert config["optimizer"]["learning_rate"] == float(cell["optimizer.learning_rate"])
        assert config["optimizer"]["beta2"] == float(cell["optimizer.beta2"])
        typed = compose_again([*WORDS, *(f"{key}={word}" for key, word in cell.items()), f"results_dir={tmp_path}"])
        assert [each.run_id for each in typed.cells] == [run_id]


def test_a_report_takes_drawn_options_for_settings_of_one_cell(tmp_path):
    plan = start(tmp_path, WORDS, choice=CHOICE)
    plan.extend([], {**plan.information(), "axes": {}})
    picks = play(plan)
    rates = [float(cell["optimizer.learning_rate"]) for _, cell, _ in picks]
    answer = overview(Study(plan)).answer
    assert answer.startswith(f"By validation loss the best of 5 settings is optimizer.learning rate {min(rates):.4g}, ")


def test_a_search_that_is_stopped_anywhere_makes_the_same_picks(tmp_path):
    choice = {**CHOICE, "pruner": "median", "pruner_options": {"n_startup_trials": 1}, "trials": 5, "round": 2}
    whole = play(start(tmp_path / "whole", WORDS, choice=choice))
    plan = start(tmp_path / "stopped", WORDS, choice=choice)
    for most in (1, 0, 2, 3):
        play(plan, most)
    assert play(plan) == whole
    states = [plan.directory(run_id).status().state for run_id in dict.fromkeys(run for _, _, run in whole)]
    assert len(states) == 5
    assert set(states) == {"done", "paused"}, "some are pruned"


def test_a_run_that_goes_on_shows_its_evaluations_up_to_its_last_pause(tmp_path):
    plan = start(tmp_path, WORDS, choice={**CHOICE, "pruner": "median", "round": 1})
    search = Search.of(plan)
    asker = Asker(search)
    asker.ask()
    (first,) = Record.of(plan.path).chosen
    train(plan.directory(first.run_id), 10)
    asker.ask()  # a second trial
    assert asker.ask().chosen == 2  # the first goes on, and is no other cell
    record = Record.of(plan.path)
    assert [each.pick.until for each in record.chosen if each.run_id == first.run_id] == [10, 20]
    value = loss(plan.directory(first.run_id).config(), 10)
    for _ in range(2):
        seen = search.without_latest(record, search.seen(record))[0]
        assert (seen.state, seen.evaluations, seen.value) == ("waiting", ((10, value),), None)
        train(plan.directory(first.run_id), 20)  # which changes nothing as long as it is hidden
    assert search.seen(record)[0].state == "paused"
    assert len(search.seen(record)[0].evaluations) == 2


def test_the_page_of_a_search_begins_with_its_answer_about_its_goal(tmp_path):
    """The settings are compared by the validation loss that was searched, and the result of the best is a test accuracy."""
    plan = start(tmp_path, WORDS, choice={**CHOICE, "goal": "validation_loss"})
    plan.extend([], {**plan.information(), "axes": {}})
    picks = play(plan)
    study = Study(plan)
    runs = study.runs
    losses = runs.set_index("run_id")["validation_loss"]
    # The accuracies are in the opposite order, so that they would choose the worst run by the loss.
    ranks = runs["validation_loss"].rank()
    study.runs = runs.assign(validation_accuracy=ranks / 10, test_accuracy=1 - ranks / 10)
    findings = overview(study)
    best = {run_id: cell for _, cell, run_id in picks}[losses.idxmin()]
    rate = float(best["optimizer.learning_rate"])
    assert findings.answer.startswith(
        f"By validation loss the best of 5 settings is optimizer.learning rate {rate:.4g}, "
    )
    assert "test accuracy 90.00 %" in findings.answer
    text = study_page.write(study, findings, tmp_path / "page").read_text()
    shown = re.search(r'<p class="answer">(.*?)</p>', text, re.DOTALL).group(1)
    assert re.match(r"\s*5 runs, .* of 5 trials ended; best: ", shown)

"""The study of initialization and momentum: its grid, and its analysis of made-up runs whose ratios are known."""

import re

import numpy as np
import pytest
from scipy import stats

from optbench.__main__ import main
from optbench.analysis.study import Study
from tests.experiments.made_runs import analyse, configured, drawn, evaluation, expanded, store, summarized

SEEDS, RATES = range(3), (0.02, 0.05, 0.1)
#: The squared errors after the final phase, of (optimizer, largest momentum), and those before it.
ERRORS = {
    ("nesterov", 0.0): (3.0, 3.1),
    ("nesterov", 0.9): (1.6, 1.65),
    ("momentum", 0.9): (1.62, 1.7),
    ("nesterov", 0.999): (0.8, 0.9),
    ("momentum", 0.999): (1.2, 2.4),
}
SCALES = {0.25: 2.0, 1.0: 1.6, 4.0: 4.0}
WRONG = {0.0: 0.9, 0.9: 0.5, 0.995: 0.1}


def noise(seed):
    return (0.97, 1.0, 1.03)[seed]


def autoencoder(optimizer, momentum, scale, rate, seed, after, before):
    """The middle rate is the best, but at seed 2 that of 0.1 is, by luck, which the other seeds do not know."""
    factor = {0.02: 1.5, 0.05: 1.0, 0.1: 0.5 if seed == 2 else 2.0}[rate] * noise(seed)
    config = configured(optimizer, 200, seed, rate=rate, model="autoencoder")
    config["momentum_schedule"] = {"name": "sutskever", "maximum": momentum, "final_steps": "10%"}
    config["init"] = {"name": "sparse", "scale": scale}
    config["budget"]["steps"] = 2500
    rows = [
        evaluation(2000, 200, train_squared_error=9.0),
        evaluation(2250, 200, train_squared_error=before * factor),
        evaluation(2500, 200, train_squared_error=after * factor),
    ]
    return config, summarized(config, train_squared_error=after * factor), "done", rows


def sequence(optimizer, momentum, seed, wrong, dataset):
    config = configured(optimizer, 50, seed, rate=0.01, model="rnn")
    config["momentum_schedule"] = {"name": "delayed", "then": momentum, "first_steps": "5%"}
    config["init"] = {"name": "esn"}
    config["dataset"] = {**dataset, "info": {}}
    accuracy = 1 - wrong * noise(seed)
    return config, summarized(config, test_accuracy=accuracy, validation_accuracy=accuracy), "done", []


def made(errors=ERRORS, scales=SCALES, wrong=WRONG, heavy=1.5):
    runs = [
        autoencoder(optimizer, momentum, 1.0, rate, seed, after, before)
        for (optimizer, momentum), (after, before) in errors.items()
        for rate in RATES
        for seed in SEEDS
    ]
    runs += [
        autoencoder("nesterov", 0.9, scale, rate, seed, error, error)
        for scale, error in scales.items()
        if scale != 1
        for rate in RATES
        for seed in SEEDS
    ]
    for momentum, value in wrong.items():
        for seed in SEEDS:
            runs.append(sequence("nesterov", momentum, seed, value, {"name": "adding"}))
            if momentum:
                runs.append(sequence("momentum", momentum, seed, value * heavy, {"name": "adding"}))
    return runs


def found(root, runs):
    return analyse("initialization_and_momentum", store(root, "initialization_and_momentum", runs))


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return found(tmp_path_factory.mktemp("study"), made())


def verdicts(findings):
    return {
        int(note.split(",")[0].removeprefix("Criterion ")): bool(re.search(r": holds", note))
        for note in findings.notes
        if note.startswith("Criterion")
    }


def test_every_seed_reports_the_rate_that_the_others_choose(findings):
    """Seed 2 is best at 0.1, where the others are worst: it must not report that value, nor choose it alone."""
    table = findings.tables["autoencoder"].set_index(["method", "momentum", "init_scale"])
    row = table.loc["SGD", 0.0, 1.0]
    # Without seed 0 or 1 the rate 0.1 has (2.0 + 0.5)/2, more than 1; without seed 2 it has 2.
    values = np.array([3.0 * noise(seed) for seed in SEEDS])
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    bounds = [row["train_squared_error"], row["train_squared_error_low"], row["train_squared_error_high"]]
    assert bounds == pytest.approx([3.0, 3.0 - half, 3.0 + half])
    assert (row["seeds"], row["chosen"], row["at_edge"]) == (3, "0.05", 0)
    assert row["before"] == pytest.approx(3.1)


def test_all_criteria_hold_where_they_were_made_to(findings):
    assert verdicts(findings) == dict.fromkeys(range(1, 7), True)
    said = " ".join(findings.notes)
    assert "At 0.999 it is 0.27 [0.27, 0.27] times SGD's" in said
    assert "Nesterov's error over heavy ball's is 0.99 [0.99, 0.99] and 0.67 [0.67, 0.67]" in said
    assert "The error after it is 0.50 [0.50, 0.50] and 0.95 [0.95, 0.95] times that before it" in said
    assert "0.25: 1.25 [1.25, 1.25], 4: 2.50 [2.50, 2.50]" in said
    assert "adding: 0.9 wrong answers for SGD, 0.1 with Nesterov at 0.995" in said
    assert findings.answer.startswith("The autoencoder has 0.27 [0.27, 0.27] times the squared error of SGD")
    assert [chart.name for chart in findings.charts] == ["momentum", "initialization", "recurrent"]
    drawn(findings)


@pytest.mark.parametrize(
    ("criterion", "changes"),
    [
        (1, {"errors": ERRORS | {("nesterov", 0.999): (1.6, 1.7), ("momentum", 0.999): (1.8, 3.6)}}),
        (2, {"errors": ERRORS | {("momentum", 0.9): (1.9, 2.0)}}),
        (2, {"errors": ERRORS | {("momentum", 0.999): (0.79, 1.6)}}),
        (3, {"errors": ERRORS | {("momentum", 0.999): (1.2, 1.21)}}),
        (4, {"scales": SCALES | {0.25: 1.5}}),
        (4, {"scales": SCALES | {4.0: 1.5}}),
        (5, {"wrong": WRONG | {0.995: 0.6}}),
        (6, {"heavy": 0.9}),
    ],
    ids=str,
)
def test_each_criterion_fails_by_its_own_number(tmp_path, criterion, changes):
    assert verdicts(found(tmp_path, made(**changes))) == {number: number != criterion for number in range(1, 7)}


def test_errors_without_the_sequence_are_those_of_the_best_constant(tmp_path):
    """Drawn targets, and the constant of a fine grid that has the most of them within 0.04."""
    runs = [
        sequence("nesterov", momentum, seed, value, dataset)
        for dataset in (
            {"name": "adding"},
            {"name": "multiplication"},
            {"name": "memorization", "symbols": 10, "values": 5},
        )
        for momentum, value in WRONG.items()
        for seed in SEEDS
    ]
    table = found(tmp_path, runs).tables["recurrent"].set_index("task")["blind"]
    numbers = np.random.default_rng(0).random((2, 100_000))
    for task, targets in (("adding", numbers.sum(0)), ("multiplication", numbers.prod(0))):
        missed = min(np.mean(np.abs(targets - guess) > 0.04) for guess in np.linspace(0, 2, 401))
        assert table[task].to_numpy() == pytest.approx(missed, abs=0.005)
    assert set(table["memorization, 23 bits"]) == {8.0}


def test_without_runs_or_with_one_seed_there_is_no_answer(tmp_path):
    none = [(config, None, "pending", []) for config, *_ in made()]
    assert found(tmp_path / "none", none).answer.startswith("Not enough runs for an answer")
    alone = [run for run in made() if run[0]["seed"] == 0]
    assert found(tmp_path / "one", alone).answer.startswith("Not enough runs for an answer")


def test_a_diverged_run_is_the_worst_of_its_cell(tmp_path):
    runs = made()
    at = next(
        number
        for number, (config, *_) in enumerate(runs)
        if config["seed"] == 0 and config["optimizer"]["learning_rate"] == 0.05 and config["init"].get("scale") == 1.0
        if config["momentum_schedule"]["maximum"] == 0.999 and config["optimizer"]["name"] == "nesterov"
    )
    config = runs[at][0]
    runs[at] = (config, summarized(config), "diverged", [])
    findings = found(tmp_path, runs)
    row = findings.tables["autoencoder"].set_index(["method", "momentum", "init_scale"]).loc["Nesterov", 0.999, 1.0]
    # Seed 1 knows of seed 0, and of the luck of seed 2 at 0.1; seed 0 itself cannot know that 0.05 diverged.
    assert (row["seeds"], row["chosen"]) == (2, "0.02, 0.05, 0.1")
    assert "1 of " in findings.notes[-1]


@pytest.mark.parametrize("scale", ["smoke", "laptop", "full"])
def test_every_scale_expands(scale):
    _, expansion = expanded("initialization_and_momentum", scale, "seed=0")
    configs = [cell.config for cell in expansion.cells]
    assert (configs[0]["launcher"]["name"] == "slurm") == (scale == "full")
    assert {config["budget"]["steps"] for config in configs} == {
        "smoke": {200},
        "laptop": {2500, 1500},
        "full": {750_000, 50_000},
    }[scale]
    plain = [
        config
        for config in configs
        if config["momentum_schedule"].get("maximum", config["momentum_schedule"].get("then")) == 0
    ]
    assert {config["optimizer"]["name"] for config in plain} == {"nesterov"}
    tasks = {
        (config["dataset"]["name"], config["dataset"].get("symbols"))
        for config in configs
        if config["model"]["name"] == "rnn"
    }
    assert tasks == {("adding", None), ("multiplication", None), ("memorization", 5), ("memorization", 10)}


@pytest.mark.slow
def test_the_smoke_scale_runs_and_is_analysed(tmp_path, capsys):
    words = [f"results_dir={tmp_path}", "scale=smoke", "seed=0,1", "launcher.workers=2"]
    main(["-m", "experiment=initialization_and_momentum", *words])
    study = Study.read(tmp_path, "initialization_and_momentum", "smoke")
    assert set(study.runs["status"]) == {"done"}
    findings = analyse("initialization_and_momentum", study)
    assert findings.answer.startswith("The autoencoder has ")
    assert findings.tables["autoencoder"]["before"].notna().all()

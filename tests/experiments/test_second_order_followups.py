"""The follow-ups of the study of second-order methods: equal batches, new factors, flatness at equal training loss."""

import importlib
import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from optbench.__main__ import main
from optbench.analysis.studies import folder_of

MODULES = tuple(f"second_order_{name}" for name in ("choices", "charts", "comparisons", "followups"))


@pytest.fixture
def followups(monkeypatch):
    monkeypatch.syspath_prepend(str(folder_of("second_order")))
    for name in MODULES:
        sys.modules.pop(name, None)
    yield importlib.import_module("second_order_followups")
    for name in MODULES:
        sys.modules.pop(name, None)


def part(followups, name):
    choices = importlib.import_module("second_order_choices")
    return next(one for one in choices.PARTS if one.name == name)


@pytest.mark.parametrize(
    ("name", "runs"),
    [("autoencoder_batch", 17), ("convnet_factors", 9), ("entropy_long", 12)],
)
def test_the_grids_expand_to_their_runs(name, runs, tmp_path, capsys):
    words = [f"experiment=second_order_{name}", "dry_run=true", f"results_dir={tmp_path}", "tracker=none"]
    assert main(["-m", *words]) == 0
    assert f"{runs} runs: {runs} new" in capsys.readouterr().out


def ranked(rows):
    """The rows that `scored` returns: rows of (method, seed, choice, score)."""
    frame = pd.DataFrame(rows, columns=["method", "seed", "choice", "score"])
    frame["run_id"] = [f"r{number}" for number in range(len(frame))]
    return frame.assign(status="done", optimizer="sgd", validation_accuracy=0.5)


def test_steps_to_a_loss_lie_between_evaluations(followups):
    comparisons = importlib.import_module("second_order_comparisons")
    history = pd.DataFrame({"step": [0, 10, 20], "train_loss": [5.0, 4.0, 2.0]})
    assert comparisons.steps_to_loss(history, 3.0) == 15
    assert comparisons.steps_to_loss(history, 4.0) == 10
    assert comparisons.steps_to_loss(history, 1.0) == math.inf


@pytest.mark.parametrize(("reached", "outcome"), [(True, "agrees"), (False, "agrees")])
def test_ratios_of_steps_at_equal_batches(followups, reached, outcome):
    """Momentum is at the last loss of K-FAC, 1, after four times as many steps, or never in five times as many."""
    rows, histories = [], []
    for seed in (0, 1, 2, 3):
        rows += [("K-FAC, natural", seed, "trial=5", 1.0), ("Nesterov", seed, "rate=1", 1.0)]
    table = ranked(rows)
    for _, run in table.iterrows():
        kfac = run["method"] == "K-FAC, natural"
        steps = [0, 5, 10] if kfac else [0, 10, 40, 50]
        losses = [3.0, 2.0, 1.0] if kfac else [3.0, 2.5, 1.0 if reached else 1.5, 0.9 if reached else 1.4]
        for step, loss in zip(steps, losses, strict=True):
            histories.append({"run_id": run["run_id"], "step": step, "train_loss": loss, "test_loss": loss + 1})
    findings = followups.analyse(part(followups, "autoencoder_batch"), None, table, pd.DataFrame(histories))
    row = findings.tables["agreement"].iloc[0]
    assert row["outcome"] == outcome
    assert (row["seeds"], row["seeds_with_kfac_lower_at_equal_steps"]) == (3, 3)
    assert row["estimate"] == (pytest.approx(4) if reached else math.inf)
    assert row["low"] == pytest.approx(4 if reached else 5)
    assert findings.tables["runs_of_the_choices"]["train_loss_at_equal_steps"].tolist() == pytest.approx(
        [1.0] * 3 + [2.5] * 3
    )
    assert ("4.0" in findings.answer) == reached
    assert ("above 5.0 in 3 of 3 seeds" in findings.answer) == (not reached)
    assert findings.charts[0].matplotlib()


def test_new_factors_are_compared_by_seed(followups):
    """Twice as quick as old factors on each seed, though the seeds differ by more; as quick as momentum on the mean."""
    steps = {1: 10.0, 2: 20.0, 3: 40.0}
    rows = []
    for seed, own in steps.items():
        rows += [("K-FAC, factors every step", seed, "a", own), ("K-FAC", seed, "b", 2 * own * 1.01**seed)]
        rows += [("momentum SGD", seed, "c", 20.0)]
    table = ranked(rows)
    histories = pd.DataFrame(
        [{"run_id": run, "step": step, "validation_accuracy": 0.1 * step} for run in table["run_id"] for step in (2, 8)]
    )
    findings = followups.analyse(part(followups, "convnet_factors"), None, table, histories)
    outcomes = findings.tables["agreement"].set_index(["method", "against"])
    assert outcomes.loc[("K-FAC, factors every step", "K-FAC"), "ratio_of_steps"] == pytest.approx(0.5, rel=0.03)
    assert outcomes.loc[("K-FAC, factors every step", "K-FAC"), "outcome"] == "agrees"
    assert outcomes.loc[("K-FAC, factors every step", "momentum SGD"), "ratio_of_steps"] == pytest.approx(1)
    assert outcomes.loc[("K-FAC, factors every step", "momentum SGD"), "outcome"] == "undecided"
    assert len(findings.tables["steps_to_target"]) == 9
    assert findings.charts[0].matplotlib()


def test_flatness_is_compared_at_the_same_training_loss(followups):
    """Measures are powers of the training loss, those of Entropy-SGD a third; it also goes to a lower loss."""
    rows, measured = [], {}
    for seed in (1, 2, 3):
        for method, losses, factor in (("Entropy-SGD", (0.2, 0.02), 1 / 3), ("SGD", (0.3, 0.04), 1.0)):
            for steps, loss in zip((100, 400), losses, strict=True):
                run = {
                    "run_id": f"{method}-{seed}-{steps}",
                    "method": method,
                    "seed": seed,
                    "steps": steps,
                    "status": "done",
                }
                run |= {"train_loss": loss, "test_loss": 0.5, "gap_accuracy": 0.1, "score": 0.0}
                run["test_accuracy"] = 0.86 + 0.001 * seed - (0.02 if method == "Entropy-SGD" and steps == 100 else 0)
                value = factor * loss**-0.5 * 1.01**seed
                run |= {name: value for name in followups.MEASURES if name not in ("filter_rise", "trace")}
                rows.append(run)
                x = np.linspace(-1, 1, 5)
                lines = {"positions": x, "loss": np.stack([loss + value * x**2 / followups.DISTANCE**2] * 2)}
                measured[run["run_id"], "landscape"] = [SimpleNamespace(arrays=lambda lines=lines: lines)]
                measured[run["run_id"], "trace"] = [SimpleNamespace(values={"value": value})]
    study = SimpleNamespace(measurements=lambda run_id, probe: measured[run_id, probe])
    findings = followups.analyse(part(followups, "entropy_long"), study, pd.DataFrame(rows), pd.DataFrame())
    matched = findings.tables["matched"]
    assert matched["train_loss"].to_numpy() == pytest.approx(0.04)
    for name in followups.MEASURES:
        assert matched[name].to_numpy() == pytest.approx(1 / 3, rel=1e-6)
    outcomes = findings.tables["agreement"].set_index("quantity")["outcome"]
    assert outcomes[followups.MEASURES["filter_rise"]] == "agrees"
    assert outcomes["test accuracy after 100 gradients, minus that of SGD"] == "disagrees"
    assert outcomes["test accuracy after 400 gradients, minus that of SGD"] == "agrees"
    assert "0.33 [0.33, 0.33] times" in findings.answer
    assert findings.charts[0].matplotlib()


def test_flatness_without_a_training_loss_in_common_is_not_compared(followups):
    rows = [
        {"method": method, "seed": 1, "steps": steps, "train_loss": loss, **dict.fromkeys(followups.MEASURES, 1.0)}
        for method, losses in (("Entropy-SGD", (0.2, 0.1)), ("SGD", (0.05, 0.02)))
        for steps, loss in zip((100, 400), losses, strict=True)
    ]
    assert followups._matched(pd.DataFrame(rows)).empty

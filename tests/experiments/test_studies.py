"""Four studies: each scale expands, and each analysis takes any part of its runs."""

import re

import numpy as np
import pandas as pd
import pytest

from tests.experiments.made_runs import (
    analyse,
    comparison_runs,
    drawn,
    expanded,
    gap_runs,
    rate_runs,
    store,
    summarized,
    target_runs,
)

STUDIES = ("generalization_gap", "scaling_rules", "steps_to_target", "optimizer_comparison")


METHODS = ("sgd", "momentum", "adam", "lamb", "kfac", "sam")


SMALL = [(name, scale) for name in STUDIES for scale in ("smoke", "laptop")]


FULL = [pytest.param(name, "full", marks=pytest.mark.slow) for name in STUDIES]


def keys(expansion):
    """The values that tell the cells apart, as tuples of optimizer, batch, trial, learning rate, seed and remedies."""
    found = []
    for cell in expansion.cells:
        config = cell.config
        remedies = (
            config["scaling"]["name"],
            config["schedule"]["warmup"],
            config["ghost_batch_size"],
            config["budget"]["regime_adaptation"],
        )
        optimizer = config["optimizer"]
        found.append(
            (optimizer["name"], config["batch"], config["trial"], optimizer["learning_rate"], config["seed"], remedies)
        )
    return found


@pytest.mark.parametrize(("name", "scale"), [*SMALL, *FULL])
def test_every_scale_expands(name, scale):
    # One seed, few optimizers and batches: of the others only the words differ.
    words = [
        "seed=0",
        *(["batch=32,64"] if name in ("scaling_rules", "steps_to_target") else []),
        *(["optimizer.learning_rate=0.5"] if name == "generalization_gap" else []),
        *(["search=grid"] if name in ("scaling_rules", "generalization_gap", "steps_to_target") else []),
        *(["trial=0,1" if scale == "smoke" else "trial=0", "search=grid"] if name == "optimizer_comparison" else []),
    ]
    said, expansion = expanded(name, scale, *words)
    assert expansion.scale == scale
    cells = keys(expansion)
    seeds = str(said["scales"][scale]["seed"])
    assert scale == "smoke" or seeds in ("range(5)", "range(6)", "range(10)", "0,1,2", "0,1,2,3,4")
    assert (expansion.cells[0].config["launcher"]["name"] == "slurm") == (scale == "full")
    if name == "optimizer_comparison":
        problems = {cell.config["model"]["name"] for cell in expansion.cells}
        assert problems == {"convnet", "resnet_narrow", "char_lstm", "gpt", "autoencoder", "gru"}
        # Equal budgets: every optimizer has as many runs on every problem.
        points = [(cell.config["model"]["name"], cell.config["optimizer"]["name"]) for cell in expansion.cells]
        trials = 2 if scale == "smoke" else 1
        assert set(pd.Series(points).value_counts()) == {trials}
        methods = {method for _, method in points}
        assert len(points) == trials * (31 if scale == "smoke" else 26 * 6)
        assert len(methods) == (6 if scale == "smoke" else 26)
        for cell in expansion.cells:
            is_free = cell.config["optimizer"]["name"].startswith("schedule_free")
            assert cell.config["schedule"]["name"] == ("constant" if is_free else "cosine")
            assert cell.config["schedule"]["warmup"] == "5%"
    if name == "scaling_rules":
        rates = {key[3] for key in cells if key[0] == "sgd"}
        assert sorted(rates) == pytest.approx([2.0 ** (power / 2) for power in range(-14, 11)], rel=1e-3)
        measuring = [cell.config for cell in expansion.cells if "batch_hessian" in cell.config["probe"]]
        assert [(config["optimizer"]["name"], config["batch"]) for config in measuring] == [
            ("momentum", 32 if scale == "smoke" else 64)
        ]
    if name == "generalization_gap":
        batches = sorted({key[1] for key in cells})
        found = {}
        for cell in expansion.cells:
            config = cell.config
            options = config["schedule"]["warmup"], config["ghost_batch_size"], config["budget"]["regime_adaptation"]
            found.setdefault((config["optimizer"]["name"], config["budget"]["epochs"], *options), set()).add(
                config["batch"]
            )
        ghost = 16 if scale == "smoke" else 128
        epochs = 100 if scale == "full" else 4
        plain = {method: found.pop((method, epochs, "5%", ghost, False)) for method in (*METHODS, "lars")}
        assert plain == {**{method: set(batches) for method in METHODS}, "lars": {batches[2]}}
        others = {(epochs, "25%", ghost, False): 2, (epochs, "5%", None, False): 2, (epochs, "5%", ghost, True): 1}
        if scale != "full":
            others |= {(number, "5%", ghost, False): 0 if number < 4 else 2 for number in (1, 2, 16, 64)}
            others[16, "25%", ghost, False] = 2
        assert found == {("momentum", *key): {batches[place]} for key, place in others.items()}
    if name == "steps_to_target":
        measuring = [cell.config for cell in expansion.cells if "noise_scale" in cell.config["probe"]]
        assert {config["optimizer"]["name"] for config in measuring} <= {"sgd"}
        lines = {}
        for cell in expansion.cells:
            if "noise_scale" not in cell.config["probe"]:
                optimizer = cell.config["optimizer"]
                lines.setdefault(optimizer["name"], set()).add(optimizer["learning_rate"])
        assert set(lines) == {"sgd", "nesterov", "adam", "lamb", "kfac"}
        for rates in lines.values():
            steps = np.diff(np.log2(sorted(rates)))
            assert steps == pytest.approx(np.ones(len(steps)), abs=1e-3)


MADE = {
    "generalization_gap": gap_runs,
    "scaling_rules": lambda: rate_runs({"sgd": 1.0}, seeds=1),
    "steps_to_target": target_runs,
    "optimizer_comparison": comparison_runs,
}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("done", [0, 1])
def test_a_study_that_has_hardly_begun_says_so(tmp_path, name, done):
    runs = MADE[name]()
    runs = [run if place < done else (run[0], None, "pending", []) for place, run in enumerate(runs)]
    findings = analyse(name, store(tmp_path, name, runs))
    assert "ot enough runs" in findings.answer
    assert not re.search(r"\bnan\b|\binf\b", " ".join([findings.answer, *findings.notes]))


@pytest.mark.parametrize("name", STUDIES)
def test_an_analysis_takes_any_part_of_its_runs(tmp_path, name):
    runs = MADE[name]()
    generator = np.random.default_rng(0)
    keep = generator.random(len(runs)) < 0.5
    runs = [run if here else (run[0], None, "pending", []) for run, here in zip(runs, keep, strict=True)]
    findings = analyse(name, store(tmp_path, name, runs))
    assert not re.search(r"\bnan\b|\binf\b", " ".join([findings.answer, *findings.notes]))
    drawn(findings)


@pytest.mark.parametrize("name", ["generalization_gap", "scaling_rules", "optimizer_comparison"])
def test_all_runs_may_have_diverged(tmp_path, name):
    runs = [(config, summarized(config), "diverged", []) for config, *_ in MADE[name]()]
    assert "ot enough runs" in analyse(name, store(tmp_path, name, runs)).answer

"""The study of train and test minima: its grid, and its analysis of made-up measurements whose terms are known."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.__main__ import main
from optbench.analysis.study import Study
from tests.experiments.made_runs import analyse, configured, drawn, expanded, store, summarized

SIZES, RATES_AND_BATCHES = (128, 256, 512, 1024), ((0.25, 4), (0.25, 16), (1.0, 4), (1.0, 16))
SEEDS = range(3)


def noise(seed):
    return (0.97, 1.0, 1.03)[seed]


def measured(model, examples, penalty, rate, batch, seed, replacement=True, **changes):
    """Q = 4 n^-½ times a factor of the seed, G = Q/0.97, and a covariance term of T/10 that is predicted 5 % too small."""
    shift = 4 * examples**-0.5 * noise(seed) * (1 if penalty == 0.01 else 1.5)
    predicted = 0.1 * rate / (2 * batch)
    covariance = predicted * (1.05 if replacement else 0.2) * noise(seed)
    terms = {"shift": shift, "bias": 0.001, "cross": -0.002, "covariance": covariance}
    terms["sum"] = sum(terms.values())
    values = {f"diagnostic_{name}": value for name, value in terms.items()}
    values |= {"diagnostic_excess": 1.02 * terms["sum"], "diagnostic_shift_excess": shift / 0.97}
    values |= {
        "diagnostic_covariance_predicted": predicted,
        "diagnostic_shift_by_train": shift,
        "diagnostic_barrier": 0.0,
    }
    values |= {"diagnostic_shift_norm": 2.0, "diagnostic_converged": 1.0, "diagnostic_cosine": 0.1}
    values |= {"loss": 0.1, "excess": 0.01, "bias_norm": 0.3, "gradient_norm": 0.0, "barrier": 0.0, "iterates": 200.0}
    config = configured("sgd", batch, seed, rate=rate, model=model)
    config["optimizer"]["weight_decay"] = penalty
    config["dataset"] = {
        "name": "digits_table",
        "train_limit": examples,
        "replacement": replacement,
        "split_seed": seed,
    }
    return config, values | changes


def made():
    runs = [
        measured("logreg", size, penalty, 1.0, 64, seed)
        for size in SIZES
        for penalty in (0.001, 0.01)
        for seed in SEEDS
    ]
    runs += [measured("logreg", 1024, 0.01, rate, batch, seed) for rate, batch in RATES_AND_BATCHES for seed in SEEDS]
    runs += [measured("logreg", 1024, 0.01, 1.0, 16, seed, False) for seed in SEEDS]
    return runs + [measured("mlp", size, 0.01, 0.25, 64, seed) for size in (128, 1024) for seed in SEEDS]


def study_of(root, runs):
    """A store of the runs; one without values has not begun."""
    rows = [
        (config, None if values is None else summarized(config), "pending" if values is None else "done", [])
        for config, values in runs
    ]
    study = store(root, "shift_curvature", rows)
    for number, (_, values) in enumerate(runs):
        if values is not None:
            study.plan.directory(f"run-{number:04d}").measurements.write("shift", 4000, values, {}, 0.1, {})
    return Study.read(root, "shift_curvature")


def found(root, runs):
    return analyse("shift_curvature", study_of(root, runs))


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return found(tmp_path_factory.mktemp("study"), made())


def test_the_terms_of_a_setting_are_means_over_seeds_with_students_interval(findings):
    table = findings.tables["settings"].set_index(["model", "examples", "penalty", "learning_rate", "batch", "drawing"])
    row = table.loc["logreg", 1024, 0.01, 1.0, 16, "with replacement"]
    shifts = np.array([0.125 * noise(seed) for seed in SEEDS])
    half = stats.t.ppf(0.975, 2) * stats.sem(shifts)
    assert [row["shift"], row["shift_low"], row["shift_high"]] == pytest.approx([0.125, 0.125 - half, 0.125 + half])
    assert (row["temperature"], row["seeds"], row["shift_is_largest"]) == (1 / 32, 3, 3)
    assert row["covariance_predicted"] == pytest.approx(0.1 / 32)
    assert row["over_prediction"] == pytest.approx(1.05)
    assert row["both_over_prediction"] == pytest.approx(1.05 + 0.001 * 320)
    assert row["ratio"] == pytest.approx(0.97)
    assert row["accuracy"] == pytest.approx(1 / 1.02)
    shares = [shift / (shift - 0.001 + 0.105 / 32 * noise(seed)) for seed, shift in zip(SEEDS, shifts, strict=True)]
    assert row["share"] == pytest.approx(np.mean(shares))


def test_the_fall_of_the_shift_is_the_slope_over_sizes_at_one_rate_and_batch(findings):
    falls = findings.tables["slopes"].set_index(["model", "penalty", "quantity"])
    for penalty in (0.001, 0.01):
        row = falls.loc["logreg", penalty, "shift"]
        assert [row["slope"], row["least"], row["most"], row["sizes"]] == pytest.approx([-0.5, -0.5, -0.5, 4])
    assert falls.loc["mlp", 0.01, "shift"]["sizes"] == 2
    assert any("λ = 0.01: Q falls as n to the power -0.50" in note for note in findings.notes)


def test_the_criteria_hold_where_they_were_made_to(findings):
    verdicts = [note for note in findings.notes if note.startswith("Criterion")]
    assert [bool(re.search(r": holds", note)) for note in verdicts] == [True, True, True, True]
    assert "It is 1.05 times the prediction" in verdicts[1]
    assert "0.970" in verdicts[2]
    assert "times that with replacement" in " ".join(findings.notes)
    assert "0.20 [0.19, 0.21] times the prediction" in " ".join(findings.notes)
    assert findings.answer.startswith("For softmax regression the shift is 100% [")
    assert "at the highest, 0.12, where the covariance of the weights adds 0.013 and the shift 0.125" in findings.answer
    assert [chart.name for chart in findings.charts] == ["terms", "covariance", "sizes"]
    drawn(findings)


@pytest.mark.parametrize(
    ("criterion", "changes"),
    [
        (1, {"diagnostic_bias": 0.2}),
        (1, {"diagnostic_sum": 0.16, "diagnostic_excess": 0.16}),
        (2, {"diagnostic_covariance_predicted": 1e-4}),
        (3, {"diagnostic_shift_excess": 0.15}),
        (4, {"diagnostic_excess": 0.2}),
    ],
    ids=str,
)
def test_each_criterion_fails_by_its_own_number(tmp_path, criterion, changes):
    """The runs at n = 1024, λ = 0.01 and T = 1/128 are changed, a seed alone where every seed counts."""
    runs = [
        (config, values | changes)
        if (config["dataset"]["train_limit"], config["batch"], config["model"]["name"]) == (1024, 64, "logreg")
        and config["optimizer"]["weight_decay"] == 0.01
        and (criterion > 1 or config["seed"] == 2)
        else (config, values)
        for config, values in made()
    ]
    verdicts = [note for note in found(tmp_path, runs).notes if note.startswith("Criterion")]
    assert [": does not hold" in note for note in verdicts] == [number == criterion for number in (1, 2, 3, 4)]


def test_descents_that_do_not_converge_and_barriers_are_counted(tmp_path):
    runs = made()
    runs[0] = (runs[0][0], runs[0][1] | {"diagnostic_converged": 0.0, "diagnostic_barrier": 0.1})
    runs[1] = (runs[1][0], runs[1][1] | {"barrier": 0.1})
    notes = found(tmp_path, runs).notes
    assert any("have a descent" in note and " 1 have" in note and note.count(" 1 ") == 3 for note in notes)


@pytest.mark.parametrize("part", ["none", "one", "regression", "most", "full"])
def test_it_takes_any_part_of_its_runs(tmp_path, part):
    generator, runs = np.random.default_rng(0), made()
    keep = {
        "none": [False] * len(runs),
        "one": [place == 0 for place in range(len(runs))],
        "regression": [config["model"]["name"] == "logreg" for config, _ in runs],
        "most": generator.random(len(runs)) < 0.8,
        "full": [config["model"]["name"] == "mlp" for config, _ in runs],
    }[part]
    runs = [run if here else (run[0], None) for run, here in zip(runs, keep, strict=True)]
    findings = found(tmp_path, runs)
    assert ("ot enough runs" in findings.answer) == (part in ("none", "one", "full"))
    assert not re.search(r"\bnan\b|\binf\b", " ".join([findings.answer, *findings.notes]))
    assert bool(findings.charts) == (part != "none")
    if findings.charts:
        drawn(findings)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "full"])
def test_seeds_divide_the_data_and_all_sizes_have_one_rate_and_batch(scale):
    _, expansion = expanded("shift_curvature", scale)
    rows = pd.DataFrame([
        {
            "model": cell.config["model"]["name"],
            "seed": cell.config["seed"],
            "split": cell.config["dataset"].get("split_seed", cell.config["seed"]),
            "examples": cell.config["dataset"]["train_limit"],
            "penalty": cell.config["optimizer"]["weight_decay"],
            "rate": cell.config["optimizer"]["learning_rate"],
            "batch": cell.config["batch"],
            "all": cell.config["optimizer"]["decay_norm_and_bias"],
        }
        for cell in expansion.cells
    ])  # fmt: skip
    assert (rows["seed"] == rows["split"]).all()
    assert rows["all"].all()
    assert set(rows["model"]) == ({"3c3d"} if scale == "full" else {"logreg", "mlp"})
    assert rows["seed"].nunique() == (2 if scale == "smoke" else 5)
    if scale == "laptop":
        own = rows[(rows["model"] == "logreg") & (rows["batch"] == 64)]
        assert set(own["rate"]) == {1.0}
        assert (own.groupby(["examples", "penalty"])["seed"].nunique() == 5).all()
        assert set(own["examples"]) == set(SIZES)
        hot = rows[(rows["model"] == "logreg") & (rows["examples"] == 1024)]
        assert set(zip(hot["rate"], hot["batch"], strict=True)) == {*RATES_AND_BATCHES, (1.0, 64)}


@pytest.mark.slow
def test_from_its_runs_to_its_findings(tmp_path):
    words = ["experiment=shift_curvature", "scale=smoke", f"results_dir={tmp_path}", "progress=false"]
    assert main(["-m", *words, "launcher.workers=1", "trainer.accelerator=cpu"]) == 0
    findings = analyse("shift_curvature", Study.read(tmp_path, "shift_curvature", "smoke"))
    table = findings.tables["points"]
    assert (table["converged"] == 1).all()
    assert table["covariance_predicted"].notna().all()
    drawn(findings)

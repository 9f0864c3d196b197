"""The study of communication: its grid, and its analysis of made-up runs whose differences are known."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.__main__ import main
from optbench.analysis.study import Study
from tests.experiments.made_runs import accuracies, analyse, configured, drawn, expanded, store, summarized

RATES = (0.1, 0.2, 0.4)
# By condition: the options, the accuracy over dense, how this changes at batch 512 (None: not run there), the bytes.
CONDITIONS = {
    "dense": ({"name": "dense"}, 0.0, 0.0, 4000),
    "sign with error feedback": ({"name": "sign", "error_feedback": True}, -0.01, 0.03, 130),
    "sign": ({"name": "sign", "error_feedback": False}, -0.04, None, 130),
    "top-1 %": ({"name": "top_k", "error_feedback": False}, -0.06, None, 80),
    "top-1 % with error feedback": ({"name": "top_k", "error_feedback": True}, 0.0, None, 80),
    "PowerSGD rank 4": ({"name": "power_sgd", "rank": 4, "error_feedback": True}, 0.0, None, 600),
    "local steps, H = 8": ({"name": "local", "period": 8, "shards": "alike"}, 0.005, 0.0, 500),
    "local steps, H = 8, sorted shards": ({"name": "local", "period": 8, "shards": "sorted"}, -0.025, None, 500),
    "local steps, H = 32": ({"name": "local", "period": 32, "shards": "alike"}, 0.0, None, 125),
    "local steps, H = 32, sorted shards": ({"name": "local", "period": 32, "shards": "sorted"}, -0.09, None, 125),
    "post-local, H = 8": ({"name": "post_local", "period": 8, "shards": "alike"}, 0.0, None, 2250),
}


def noise(condition, seed):
    """A known value of one run, of the size of a difference between seeds."""
    return 0.002 * ((7 * seed + len(condition)) % 5 - 2)


def runs(seeds=range(9)):
    """Seeds 0 to 2 choose: 0.2 is best on validation with them, while with the others 0.4 has the best test accuracy."""
    made = []
    for condition, (communication, over, change, sent) in CONDITIONS.items():
        cells = [(128, "constant")] + ([(512, "constant")] if change is not None else [])
        cells += [(128, "cosine")] if condition in ("dense", "sign") else []
        for batch, schedule in cells:
            for seed in seeds:
                for rate in RATES if seed < 3 else (0.2, 0.4):
                    config = configured(
                        "sgd", batch, seed, rate=rate, communication=communication, schedule__name=schedule
                    )
                    test = 0.8 + over + (change if batch == 512 else 0) + 0.01 * seed + noise(condition, seed)
                    test += 0.02 * (schedule == "cosine" and condition == "sign")
                    test += 0.05 * (rate == 0.4)
                    validation = 0.8 - 0.1 * abs(np.log2(rate / 0.2))
                    metrics = accuracies(test, 0.05, validation) | {
                        "train_loss": 0.3 - over,
                        "communication_bytes": sent,
                    }
                    made.append((config, summarized(config, **metrics), "done", []))
    return made


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return analyse("communication", store(tmp_path_factory.mktemp("study"), "communication", runs()))


def test_the_rate_is_chosen_on_validation_by_the_first_seeds_alone(findings):
    rates = findings.tables["chosen_rates"]
    assert len(rates) == len(CONDITIONS) + 3 + 2
    assert set(rates["base_learning_rate"]) == {0.2}
    assert set(rates["lone_choices"]) == {""}
    results = findings.tables["results"]
    assert set(results["seeds"]) == {6}
    row = results[(results["condition"] == "sign") & (results["schedule"] == "constant")].iloc[0]
    expected = np.array([0.76 + 0.01 * seed + noise("sign", seed) for seed in range(3, 9)])
    assert row["test_accuracy"] == pytest.approx(expected.mean())
    assert row["bytes"] == 130


def test_differences_are_paired_by_seed_with_both_intervals(findings):
    table = findings.tables["minus_dense"]
    table = table[table["metric"] == "test_accuracy"].set_index("condition")
    assert len(table) == len(CONDITIONS) - 1
    for condition, (_, over, _, _) in CONDITIONS.items():
        if condition == "dense":
            continue
        # The trend over seeds is common to both runs of a pair.
        values = np.array([over + noise(condition, seed) - noise("dense", seed) for seed in range(3, 9)])
        row = table.loc[condition]
        assert row["difference"] == pytest.approx(values.mean())
        for level, low, high in ((0.95, "low", "high"), (1 - 0.05 / 10, "joint_low", "joint_high")):
            half = stats.t.ppf((1 + level) / 2, 5) * stats.sem(values)
            assert [row[low], row[high]] == pytest.approx([values.mean() - half, values.mean() + half])
        others = [np.delete(values, place).mean() for place in range(6)]
        assert [row["least_without_one"], row["most_without_one"]] == pytest.approx([min(others), max(others)])


def test_shards_batches_and_error_feedback_are_compared(findings):
    shards = findings.tables["sorted_minus_alike"].set_index("period")
    for period, expected in ((8, -0.03), (32, -0.09)):
        names = [f"local steps, H = {period}{end}" for end in (", sorted shards", "")]
        values = [expected + noise(names[0], seed) - noise(names[1], seed) for seed in range(3, 9)]
        assert shards.loc[period, "difference"] == pytest.approx(np.mean(values))
    periods = findings.tables["minus_shortest_period"].set_index(["shards", "period"])
    assert set(periods.index) == {("alike", 32), ("sorted", 32)}
    names = [f"local steps, H = {period}, sorted shards" for period in (32, 8)]
    values = [-0.09 + 0.025 + noise(names[0], seed) - noise(names[1], seed) for seed in range(3, 9)]
    assert periods.loc[("sorted", 32), "difference"] == pytest.approx(np.mean(values))
    change = findings.tables["change_with_batch"].set_index("condition")
    # The noise is the same at both batches, and has no part in the difference of differences.
    assert change["difference"].to_dict() == pytest.approx(
        {"sign with error feedback": 0.03, "local steps, H = 8": 0.0}
    )
    [feedback] = [note for note in findings.notes if note.startswith("Error feedback adds")]
    for name in ("sign", "top-1 %"):
        gain = np.mean([
            CONDITIONS[f"{name} with error feedback"][1] - CONDITIONS[name][1]
            + noise(f"{name} with error feedback", seed) - noise(name, seed)
            for seed in range(3, 9)
        ])  # fmt: skip
        assert f"{name} {100 * gain:+.2f} [" in feedback


def test_prices_are_also_taken_against_dense_at_other_rates(findings):
    table = findings.tables["minus_dense_at_rates"]
    at_best = table[table["best"] & (table["batch"] == 128)].set_index("condition")
    # At 0.4, which validation has not chosen, dense is 0.05 better.
    assert set(at_best["dense_rate"]) == {0.4}
    chosen = table[(table["dense_rate"] == 0.2) & (table["batch"] == 128)].set_index("condition")["difference"]
    assert at_best["difference"].to_numpy() == pytest.approx(chosen.to_numpy() - 0.05)
    prices = findings.tables["minus_dense"]
    prices = prices[prices["metric"] == "test_accuracy"].set_index("condition")["difference"]
    assert chosen.to_dict() == pytest.approx(prices.to_dict())
    assert any(note.startswith("The same at batch 128 against dense at rate 0.4") for note in findings.notes)


def test_a_gain_over_the_chosen_rate_of_dense_alone_is_none(tmp_path):
    """Local steps gain 0.03 on dense at 0.2, and lose 0.02 against dense at 0.4."""
    made = runs()
    for config, summary, _, _ in made:
        if config["communication"] == CONDITIONS["local steps, H = 8"][0]:
            summary["test_accuracy"] += 0.03
    found = analyse("communication", store(tmp_path, "communication", made))
    prices = found.tables["minus_dense"].set_index(["condition", "metric"])
    assert prices.loc[("local steps, H = 8", "test_accuracy"), "joint_low"] > 0
    assert " and none gains test accuracy" in found.answer


def test_a_decayed_rate_is_compared_with_a_decayed_dense(findings):
    table = findings.tables["minus_dense_decayed"]
    [row] = table[table["metric"] == "test_accuracy"].to_dict("records")
    expected = [-0.04 + 0.02 + noise("sign", seed) - noise("dense", seed) for seed in range(3, 9)]
    assert (row["condition"], row["difference"]) == ("sign", pytest.approx(np.mean(expected)))
    assert any(
        "at batch 128 with a rate that falls to zero along a cosine, in points: sign" in note for note in findings.notes
    )


def test_the_answer_counts_what_is_told_apart_at_both_rates_of_dense(findings):
    table = findings.tables["minus_dense"]
    alike = table[(table["metric"] == "test_accuracy") & ~table["condition"].str.contains("sorted")]
    lose = int((alike["joint_high"] < 0).sum())
    assert lose >= 2
    assert findings.answer.startswith(f"Of 8 ways to send less at batch 128, on shards alike, {lose} lose (")
    assert " and none gains test accuracy" in findings.answer
    assert "Sorted shards change local steps by: H = 8 " in findings.answer
    assert "From batch 128 to 512" in findings.answer
    names = [chart.name for chart in findings.charts]
    assert names == ["accuracy_against_bytes", "minus_dense", "shards", "larger_batches", "rates"]
    drawn(findings)


def test_a_best_rate_at_the_end_of_the_grid_is_named(tmp_path):
    made = [run for run in runs() if run[0]["optimizer"]["learning_rate"] != 0.1 or run[0]["batch"] == 512]
    # Two rates have no inside; with a third one below, 0.2 has.
    found = analyse("communication", store(tmp_path, "communication", made))
    assert not any("end of the grid" in note for note in found.notes)
    made = runs()
    for config, summary, _, _ in made:
        if config["communication"]["name"] == "dense" and config["batch"] == 128:
            summary["validation_accuracy"] = config["optimizer"]["learning_rate"]
    found = analyse("communication", store(tmp_path / "edge", "communication", made))
    assert any("end of the grid" in note and "dense at batch 128." in note for note in found.notes)


def test_a_diverged_pair_is_counted_and_has_no_difference(tmp_path):
    made = runs()
    lost = next(
        place
        for place, (config, *_) in enumerate(made)
        if (config["communication"], config["seed"], config["schedule"]["name"])
        == (CONDITIONS["sign"][0], 5, "constant")
        and config["optimizer"]["learning_rate"] == 0.2
    )
    made[lost] = (made[lost][0], summarized(made[lost][0]), "diverged", [])
    found = analyse("communication", store(tmp_path, "communication", made))
    table = found.tables["minus_dense"]
    row = table[(table["condition"] == "sign") & (table["metric"] == "test_accuracy")].iloc[0]
    assert (row["seeds"], row["pairs_diverged"]) == (5, 1)
    assert any(note.startswith("1 of ") and "diverged" in note for note in found.notes)


@pytest.mark.parametrize("part", ["none", "one", "search", "most"])
def test_it_takes_any_part_of_its_runs(tmp_path, part):
    generator, made = np.random.default_rng(0), runs()
    keep = {
        "none": [False] * len(made),
        "one": [place == 0 for place in range(len(made))],
        "search": [run[0]["seed"] < 3 for run in made],
        "most": generator.random(len(made)) < 0.8,
    }[part]
    made = [run if here else (run[0], None, "pending", []) for run, here in zip(made, keep, strict=True)]
    found = analyse("communication", store(tmp_path, "communication", made))
    assert ("ot enough runs" in found.answer) == (part != "most")
    assert not re.search(r"\bnan\b|\binf\b", " ".join([found.answer, *found.notes]))
    if part == "most":
        drawn(found)


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_all_conditions_have_the_same_rates_and_samples(scale):
    _, expansion = expanded("communication", scale)
    rows = pd.DataFrame([
        {
            "condition": str({key: value for key, value in cell.config["communication"].items() if key != "info"}),
            **{name: cell.config[name] for name in ("batch", "seed")},
            "schedule": cell.config["schedule"]["name"],
            "rate": cell.config["optimizer"]["learning_rate"],
            "samples": cell.config["budget"]["samples"],
        }
        for cell in expansion.cells
    ])  # fmt: skip
    assert rows["samples"].nunique() == 1
    assert rows["condition"].nunique() == 19
    search = rows[rows["seed"] < 3]
    tried = search.groupby(["condition", "schedule", "batch"])["rate"].agg(lambda rates: tuple(sorted(set(rates))))
    # Only QSGD's best rate was the lowest.
    extended = [index[0] for index, rates in tried.items() if len(rates) > tried.map(len).min()]
    assert ["qsgd" in condition for condition in extended] == ([] if scale == "smoke" else [True])
    assert len({rates[-7:] for rates in tried}) == 1
    # All have the same other seeds.
    others = rows[rows["seed"] > 2]
    assert (
        others.groupby(["condition", "schedule", "batch"])["seed"]
        .agg(lambda seeds: tuple(sorted(set(seeds))))
        .nunique()
        == 1
    )
    assert set(others["batch"]) == set(search["batch"]) == ({128, 512} if scale == "smoke" else {128, 512, 2048, 4096})


@pytest.mark.slow
def test_from_its_runs_to_its_findings(tmp_path):
    words = ["experiment=communication", "scale=smoke", f"results_dir={tmp_path}", "progress=false"]
    assert main(["-m", *words, "launcher.workers=1", "trainer.accelerator=cpu"]) == 0
    findings = analyse("communication", Study.read(tmp_path, "communication", "smoke"))
    assert {"results", "minus_dense", "sorted_minus_alike", "change_with_batch"} <= set(findings.tables)
    drawn(findings)

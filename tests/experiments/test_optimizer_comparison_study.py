"""The study optimizer_comparison on made-up runs: ranks, gains and scores are found, and weak results are said."""

import math

import pytest

from tests.experiments.made_runs import analyse, comparison_runs, drawn, store


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    return analyse("optimizer_comparison", store(root, "optimizer_comparison", comparison_runs()))


def test_ranks_gains_and_trained_trials_are_found(compared):
    ranks = compared.tables["ranks"]
    pooled = ranks[ranks["problem"] == "all"].set_index("optimizer")["rank"]
    assert pooled.to_dict() == {"adamw": 1, "momentum": 2, "sgd": 3}
    assert "AdamW is the best of 3 optimizers on 3 problems, with 1.0 [1.0, 1." in compared.answer
    assert len(compared.tables["rank_differences"]) == 3
    words = " ".join(compared.notes)
    assert "The winner's result is that of seeds that had no part in the choice." in words
    assert "With 3 problems, fewer than 6, there is no interval over problems" in words
    # Q = 2 P = 6 with two degrees of freedom: p = exp(-3).
    assert f"Kendall's W 1.00, Friedman's p {math.exp(-3):.2g}: the problems share a ranking" in words
    assert "In none of 3 comparisons does a method lose to one that it contains" in words
    # The quartiles of 0.20, 0.25 and 0.32 are 0.225 and 0.285.
    gains = compared.tables["tuned_minus_default"]
    assert gains["gain"].to_numpy() == pytest.approx(0.1 / 0.06)
    assert gains["problems"].tolist() == [3, 3, 3]
    best = compared.tables["best_trials"].set_index(["optimizer", "model"])
    assert best.loc[("adamw", "mlp"), ["trial", "test_loss", "seeds"]].tolist() == pytest.approx([2, 0.2015, 2])
    assert (compared.tables["trained_trials"]["share"] == 0.75).all()
    assert "At 9 of 9 points at least half of the trials train." in words
    # Of the trials 1 to 3, with seed 0, one diverged: only three are sure to hold another one.
    budget = compared.tables["best_of_k"].set_index(["optimizer", "model", "trials"])["expected"]
    assert budget["sgd", "mlp", 1] == math.inf
    assert budget["sgd", "mlp", 3] == pytest.approx(0.32)
    assert any("9 of 72 runs diverged" in note for note in compared.notes)
    drawn(compared)


def test_scores_are_of_the_costs_to_the_loss_of_adamw_at_its_defaults(compared):
    """The target is 0.3015 + 0.01 p: momentum's winner reaches it after 95 steps, adamw's after 90, sgd's never."""
    scores = compared.tables["scores"].set_index(["target", "cost", "optimizer"]).sort_index()
    for cost in ("steps", "seconds"):
        own = scores.loc["defaults", cost]["score"]
        assert own.to_dict() == pytest.approx({"adamw": 1, "momentum": (4 - 95 / 90) / 3, "sgd": 0})
    # Runs of sgd have no FLOPs and no bytes.
    assert scores.loc["defaults", "flops"]["score"].to_dict() == pytest.approx(
        {"adamw": 1, "momentum": (4 - 95 / 90) / 3}
    )
    assert scores.loc["defaults", "bytes"]["score"].tolist() == [1, 1]
    assert scores.loc["defaults", "steps"]["rank"].to_dict() == {"adamw": 1, "momentum": 2, "sgd": 3}
    assert scores.loc["defaults", "steps"]["solved"].to_dict() == {"adamw": 3, "momentum": 3, "sgd": 0}
    # The loss of the winner of adamw is reached by half of its own seeds, and by no other.
    assert scores.loc["tuned", "steps"]["solved"].to_dict() == {"adamw": 3, "momentum": 0, "sgd": 0}
    charts = {chart.name: chart for chart in compared.charts}
    assert {one.panel for one in charts["profiles"].series} >= {"Steps", "FLOPs", "Seconds of training"}
    costs = compared.tables["costs"].set_index(["optimizer", "model"])
    assert costs.loc[("adamw", "mlp"), ["steps", "flops", "seconds", "bytes"]].tolist() == [100, 700, 11.5, 42]
    assert any(note.startswith("9 of 27 runs have no FLOPs") for note in compared.notes)


def test_a_search_that_loses_to_a_setting_of_its_own_space_is_named(tmp_path):
    """The new seeds of momentum become 0.02 worse than those of SGD, with a little noise, on the problem of mlp alone."""
    runs = []
    for config, summary, state, rows in comparison_runs():
        is_it = config["model"]["name"] == "mlp" and config["optimizer"]["name"] == "momentum" and config["trial"] == 2
        if is_it and config["seed"]:
            summary = summary | {"test_loss": summary["test_loss"] + 0.09 + 0.0001 * config["seed"]}
        runs.append((config, summary, state, rows))
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    failed = findings.tables["failed_searches"].set_index(["container", "contained", "problem"])["failed"]
    models = ("keskar_f1", "lenet5", "mlp")
    assert failed.to_dict() == {("momentum", "sgd", f"{model} on digits, batch 64"): model == "mlp" for model in models}
    note = next(note for note in findings.notes if "failed" in note)
    # 0.02015 of the quartiles' distance between 0.20, 0.32 and 0.34.
    assert note.startswith("mlp on digits, batch 64: the search of SGD with momentum failed: it is 0.29 spreads [")
    assert note.endswith("] worse than SGD, a setting of its own space (momentum 0).")
    assert next(c for c in findings.claims if c.method == "momentum" and c.against == "sgd").outcome == "disagrees"


def test_the_answer_names_the_trial_on_which_the_first_method_hangs(tmp_path, compared):
    """Trial 2 of adamw becomes so good that adamw is first, and without it momentum is; otherwise adamw is always first."""
    assert "hangs" not in compared.answer
    runs = []
    for config, summary, state, rows in comparison_runs():
        if config["optimizer"]["name"] == "adamw" and config["trial"] != 2 and state == "done":
            summary = summary | {name: summary[name] + 0.2 for name in ("validation_loss", "test_loss")}
        runs.append((config, summary, state, rows))
    answer = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs)).answer
    assert "AdamW is the best of 3" in answer
    assert "It hangs on a part of the runs: without trial 2 SGD with momentum is first." in answer


def test_winners_without_new_seeds_are_counted(tmp_path, compared):
    """With new seeds of the defaults alone: trial 2 wins."""
    runs = [run for run in comparison_runs() if not (run[0]["seed"] and run[0]["trial"] == 2)]
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    words = "At 9 of 9 points the winner has no runs with new seeds: "
    assert any(note.startswith(words) for note in findings.notes)
    assert not any("no runs with new seeds" in note for note in compared.notes)


@pytest.mark.parametrize(("scatter", "outcome"), [(0.0001, "disagrees"), (0.005, "undecided")])
def test_a_claim_of_the_comparison_that_hangs_on_one_seed_is_undecided(tmp_path, scatter, outcome):
    """Momentum is 0.02 worse than SGD; with a scatter of 0.005 p = 0.010 from three seeds, 0.045 from two; Holm asks 0.017."""
    runs = []
    for config, summary, state, rows in comparison_runs(new_seeds=(1, 2, 3)):
        is_it = config["model"]["name"] == "mlp" and config["optimizer"]["name"] == "momentum" and config["trial"] == 2
        if is_it and config["seed"]:
            summary = summary | {"test_loss": summary["test_loss"] + 0.09 + scatter * (config["seed"] - 2)}
        runs.append((config, summary, state, rows))
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    assert findings.tables["failed_searches"]["failed"].sum() == 1
    assert findings.tables["without_a_seed"]["without_seed"].unique().tolist() == [1, 2, 3]
    assert next(c for c in findings.claims if c.method == "momentum" and c.against == "sgd").outcome == outcome


def test_a_method_that_some_problem_lacks_is_in_the_ranks_of_the_others_only(tmp_path):
    runs = [
        run for run in comparison_runs() if (run[0]["optimizer"]["name"], run[0]["model"]["name"]) != ("sgd", "mlp")
    ]
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    ranks = findings.tables["ranks"].groupby("problem")["optimizer"].agg(list).to_dict()
    assert ranks["all"] == ["adamw", "momentum"]
    assert ranks["mlp on digits, batch 64"] == ["adamw", "momentum"]
    assert ranks["lenet5 on digits, batch 64"] == ["adamw", "momentum", "sgd"]
    assert any(note.startswith("SGD: not tried on every problem") for note in findings.notes)


def test_searches_in_which_few_trials_train_are_named(tmp_path):
    """Trial 3 of sgd ends where runs begin, and trial 0 does with momentum's: two of four of sgd, three of four of the others."""
    runs = []
    for config, summary, state, rows in comparison_runs():
        if config["optimizer"]["name"] == "sgd" and config["trial"] in (0, 3) and summary.get("validation_loss"):
            summary = summary | {"validation_loss": 1.2, "test_loss": 1.2}
        runs.append((config, summary, state, rows))
    findings = analyse("optimizer_comparison", store(tmp_path, "optimizer_comparison", runs))
    shares = findings.tables["trained_trials"].groupby("optimizer")["share"].unique()
    assert {name: own.tolist() for name, own in shares.items()} == {"adamw": [0.75], "momentum": [0.75], "sgd": [0.25]}
    assert any(
        "At 6 of 9 points at least half of the trials train; the others are of: SGD (3)." in n for n in findings.notes
    )

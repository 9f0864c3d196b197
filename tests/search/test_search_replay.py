"""The script that replays searches, on small tables of runs with all the flaws that a table may have."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from families import table

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import search_replay
from replay_methods import METHODS

SMALL = {"batches": range(6, 10), "rates": 9, "limit": -4.5, "seeds": 3}


def frame(optimizer="sgd", **arguments):
    grid = table(**{**SMALL, **arguments})
    rows = []
    for (b, u, s), loss in np.ndenumerate(grid.losses):
        diverged = math.isinf(loss)
        rows.append({
            "optimizer": optimizer,
            "batch": int(grid.conditions[b]),
            "base_learning_rate": grid.rates[u],
            "seed": s,
            "validation_loss": math.nan if diverged else loss,
            "steps": int(grid.taken[b, u, s]),
            "status": "diverged" if diverged else "done",
            "classes": 10,
        })  # fmt: skip
    return pd.DataFrame(rows)


def flawed(runs):
    """In another order, with cells that are missing, failed or text, and columns that mean nothing."""
    runs = runs.sample(frac=1, random_state=0).drop(index=[3, 50])
    runs.loc[7, ["status", "validation_loss"]] = "failed", math.nan
    return runs.assign(batch=runs["batch"].astype(str), note="x")


TABLES = {
    "whole": (frame(), "optimizer,batch", "batch"),
    "two optimizers": (pd.concat([frame(), frame("adam", draw=1)]), "optimizer,batch", "batch"),
    "flawed": (flawed(frame()), "optimizer,batch", "batch"),
    "one seed": (frame(seeds=1), "optimizer,batch", "batch"),
    "two batches": (frame(batches=range(6, 8)), "optimizer,batch", "batch"),
    "no law": (frame(batches=range(6, 7)), "optimizer", None),
    "a law of one batch": (frame(batches=range(6, 7)), "optimizer,batch", "batch"),
    "a column of another option": (
        pd.concat([frame().assign(**{"config.width": 1}), frame(draw=1).assign(**{"config.width": 2})]),
        "optimizer,batch",
        "batch",
    ),
    "diverged columns": (frame(limit=-7.5), "optimizer,batch", "batch"),
    "only a column that says diverged": (
        frame().assign(diverged=lambda runs: runs["status"] == "diverged").drop(columns="status"),
        "optimizer,batch",
        "batch",
    ),
}


def replayed(path, runs, conditions, law, *words):
    runs.to_parquet(path)
    given = ["--over", "learning_rate", "--goal", "validation_loss", "--conditions", conditions, *words]
    return search_replay.main([str(path), *given, *(["--law", law] if law is not None else [])])


@pytest.mark.parametrize("name", TABLES)
def test_the_last_line_is_one_object(name, tmp_path, capsys):
    assert replayed(tmp_path / "runs.parquet", *TABLES[name], "--replays", "2", "--share", "20%") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == ["cost_share", "runs_share", "inside", "coverage", "width_ratio", "regret"]
    assert 0 < found["cost_share"] <= 0.2
    assert 0 < found["runs_share"] < 1
    assert found["regret"] >= 0
    names = {"two optimizers": ["adam", "sgd"], "a column of another option": ["sgd 1", "sgd 2"]}
    assert list(found["inside"]) == names.get(name, list(found["inside"]))


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("optuna")])
def test_no_method_spends_more_than_its_share(method, tmp_path, capsys):
    words = ("--replays", "2", "--share", "20%", "--methods", method)
    for cost in ("steps", "runs"):
        assert replayed(tmp_path / "runs.parquet", *TABLES["whole"], *words, "--cost", cost) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["cost_share" if cost == "steps" else "runs_share"] <= 0.2


def test_at_the_cost_of_the_whole_grid_every_replay_has_its_answer(tmp_path, capsys):
    assert replayed(tmp_path / "runs.parquet", *TABLES["whole"], "--replays", "2", "--share", "100%") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["inside"] == {"sgd": 1.0}
    assert found["coverage"] == 1
    assert found["regret"] == 0


@pytest.mark.parametrize(
    ("runs", "words", "message"),
    [
        (frame(), ["--conditions", "nothing"], "--conditions nothing: no such column"),
        (frame(), ["--goal", "none"], "--goal none: no such column"),
        (frame(), ["--law", "seed"], "--law seed: accepted: one of --conditions optimizer,batch"),
        (frame(), ["--share", "0%"], "--share 0%: accepted: a percentage"),
        (frame(), ["--methods", "magic"], "--methods magic: accepted: adaptive, information"),
        (frame(), ["--replays", "0"], "--replays 0: accepted"),
        (pd.concat([frame(), frame()]), [], "216 runs share a cell"),
        (frame().assign(base_learning_rate=0.0), [], "--over base_learning_rate: accepted: positive numbers"),
        (frame(limit=-99.0), [], "no grid with three values"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_replayed_is_said_in_one_line(runs, words, message, tmp_path, capsys):
    runs.to_parquet(tmp_path / "runs.parquet")
    given = ["--conditions", "optimizer,batch", "--law", "batch", *words]
    assert search_replay.main([str(tmp_path / "runs.parquet"), *given]) == 2
    assert message in capsys.readouterr().err


def test_a_table_that_is_not_there(capsys):
    assert search_replay.main(["nothing.parquet"]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_the_answers_of_the_committed_table_are_those_of_its_study():
    path = Path(__file__).parents[2] / "benchmarks/grids/scaling_rules/runs.parquet"
    wholes = search_replay.read(path, "learning_rate", "validation_loss", ["optimizer", "batch"], "batch")
    assert search_replay.check(path, wholes, "batch").startswith("5 exponents and their intervals are those")

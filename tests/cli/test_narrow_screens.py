"""Tables of `status` on screens of any width: whole columns go, never letters of a number."""

import json
import re

import pytest

from optbench.__main__ import main
from optbench.cli.fitted_table import FittedTable
from optbench.store import RunDirectory
from optbench.sweep.plan import Entry, Plan
from optbench.system.terminal import console

RESULTS = {
    "learning_rate": 0.000123456, "steps": 120000, "train_loss": 1.23456e-5, "test_loss": 0.123456,
    "test_accuracy": 0.98765, "gap_accuracy": -0.012, "seconds_training": 12345.678,
}  # fmt: skip
STATES = ["done", "diverged", "failed", "running", "preempted", "paused", "pending"]
# What a row shows of a run, in the order of the columns.
CELLS = ["kfac_natural", "preresnet110", "fashion_mnist", "4096", "7", "done", "0.0001235", "120000", "1.235e-05", "0.1235",
         "98.77 %", "-1.20 %", "1.235e+04"]  # fmt: skip


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """The output of a command on a screen of some width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {})
    names = {"optimizer": "kfac_natural", "model": "preresnet110", "dataset": "fashion_mnist", "batch": 4096, "seed": 7}
    groups = {key: {"name": names[key]} for key in ("optimizer", "model", "dataset")}
    for state in STATES:
        directory = RunDirectory.at("results", f"is-{state}")
        directory.create(json.dumps(names | groups))
        directory.set_status(state, "why")
        if state in ("done", "diverged"):
            (directory.path / "summary.json").write_text(json.dumps(names | (RESULTS if state == "done" else {})))
    Plan("results", "second_order_autoencoder-laptop").extend([Entry(f"is-{state}", {}) for state in STATES], {})

    def call(width, *words):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["status", *words]) == 0
        return capsys.readouterr().out.splitlines()

    return call


def rows(lines):
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


@pytest.mark.parametrize("width", [70, 80, 90, 100, 120, 150, 200])
def test_every_line_fits_and_no_number_is_cut(width, shown):
    lines = shown(width)
    tables = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= width
    assert "…" not in "".join(lines)
    [done] = [row for row in rows(lines) if "4096" in row and "done" in row]
    # Names may go on in the next line; everything else is whole.
    assert all(name.startswith(cell) for cell, name in zip(done[:3], CELLS, strict=False))
    assert {*done[3:]} <= {*CELLS[3:]}
    assert "98.77 %" in done


def test_all_columns_are_there_where_there_is_room(shown):
    lines = shown(200)
    assert CELLS in rows(lines)
    assert not [line for line in lines if "no room" in line]
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("width", [80, 100])
def test_what_is_left_out_is_named(width, shown):
    lines = shown(width)
    [left_out] = [line for line in lines if line.startswith("no room here for: ")]
    hidden = re.match(r"no room here for: (.*) \(--json has all\)$", left_out)[1].split(", ")
    heading = " ".join(line for line in lines if line.startswith("┃"))
    assert {"seconds", "steps"} <= {*hidden}
    assert not {"optimizer", "model", "dataset", "batch", "status"} & {*hidden}
    assert not [name for name in ("seconds", "steps", "gap") if name in hidden and f" {name} " in heading]
    assert len(rows(lines)[-1]) + len(hidden) == len(CELLS)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_groups_of_runs_keep_their_counts(width, shown, monkeypatch):
    monkeypatch.setattr("optbench.cli.overview.MOST_ROWS", 5)
    lines = shown(width)
    tables = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= width
    [group] = [row for row in rows(lines) if "4096" in row]
    assert group[3:9] == ["4096", "7", "1", "1", "1", "4"]
    assert "98.77 %" in group[9:] or width <= 100


def test_a_sweep_with_more_states_than_fit_is_a_line_of_words(shown):
    states = "1 done, 1 diverged, 1 paused, 1 preempted, 1 lost, 1 failed, 1 missing"
    assert f"second_order_autoencoder-laptop: 7 runs: {states}" in shown(50)


def test_a_name_too_long_for_the_screen_goes_on_in_the_next_line():
    table = FittedTable(["name", "a number", "another"], [["x" * 40, "12345678", "1"]], ["name"], ["name"], ["another"])
    screen = console()
    screen.width = 40
    with screen.capture() as captured:
        for part in table.render(40):
            screen.print(part)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(row[0] for row in rows(lines)) == "x" * 40
    assert rows(lines)[0][1:] == ["12345678", "1"]


@pytest.mark.parametrize(("asked", "width"), [("80", 80), ("", 200), ("wide", 200), ("0", 200)])
def test_output_that_is_no_terminal_has_the_columns_that_are_asked_for(asked, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", asked)
    assert console().width == width

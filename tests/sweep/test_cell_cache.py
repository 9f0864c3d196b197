"""The command of a sweep once more, when all its runs have ended: nothing is composed, and nothing is taken on trust."""

import json
import os
import shutil

import numpy as np
import pytest
from mortal_workers import DIED, die_at, fork, wait

from optbench.__main__ import main
from optbench.provenance import checkout
from optbench.sweep import cell_cache
from optbench.sweep.cell_cache import CellCache
from optbench.sweep.grid import grids
from optbench.sweep.plan import Plan, plans

MINE = "defaults: [sgd]\nlearning_rate: 0.3\n"
WORDS = ["-m", "model=mlp", "budget.steps=5", "tracker=none", "launcher=slurm_debug", "optimizer=mine", "seed=range(4)"]


class Sweep:
    """A sweep of four runs over an own optimizer, in ``folder``, and the words of its command."""

    def __init__(self, place, *words):
        self.folder = place / "results"
        self.words = [*WORDS, *words, f"results_dir={self.folder}"]
        self.choice = place / "conf" / "optimizer" / "mine.yaml"
        self.choice.parent.mkdir(parents=True, exist_ok=True)
        self.choice.write_text(MINE)

    def finish(self, **summary):
        for name in self.ids():
            run = Plan(self.folder, "any").directory(name)
            if run.status().state == "pending" or summary:
                run.finish({"run_id": name, "steps": 5, **summary})

    def known(self, *words):
        return CellCache([*self.words, *words]).find()

    def ids(self):
        return {path.name for path in (self.folder / "runs").iterdir()}

    @property
    def plan(self):
        return plans(self.folder)[0]

    @property
    def path(self):
        return self.plan.path / "composed.json"


@pytest.fixture(scope="module")
def ended_once(tmp_path_factory):
    """A sweep whose runs have ended, planned once for all tests, and a copy of its folder."""
    place = tmp_path_factory.mktemp("sweep")
    sweep = Sweep(place, "dataset=digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTBENCH_CONF", str(place / "conf"))
        assert main(sweep.words) == 0
    sweep.finish()
    shutil.copytree(place, place.with_name("kept"))
    return sweep


@pytest.fixture
def ended(ended_once, monkeypatch):
    """The sweep of `ended_once` as it was."""
    place = ended_once.folder.parent
    monkeypatch.setenv("OPTBENCH_CONF", str(place / "conf"))
    shutil.rmtree(place)
    shutil.copytree(place.with_name("kept"), place)
    assert ended_once.known() is not None
    return ended_once


@pytest.fixture
def composed(monkeypatch):
    """The number of times that a grid was composed."""
    calls = []

    def expand(*arguments, **options):
        calls.append(arguments)
        return _expand(*arguments, **options)

    _expand = grids.expand
    monkeypatch.setattr(grids, "expand", expand)
    return calls


def test_the_same_command_composes_nothing_and_says_the_same(ended, composed, command):
    status, said, err = command(*ended.words)
    assert (status, err, composed) == (0, "", [])
    assert "4 runs: 4 done (4 of unknown code: retry=stale runs them again); nothing to do" in said
    information, content = ended.plan.information(), ended.path.read_bytes()
    ended.path.unlink()
    assert command(*ended.words) == (0, said, "")
    assert len(composed) == 1
    assert (ended.plan.information(), ended.path.read_bytes()) == (information, content)


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_runs_that_ended_otherwise_are_counted_as_without_the_file(ended, command, composed, state):
    run = ended.plan.directory(ended.plan.entries()[2].run_id)
    run.finish({"steps": 3, "why": "loss"}, "diverged") if state == "diverged" else run.set_status("failed", "memory")
    _, said, _ = command(*ended.words)
    assert "3 done" in said
    assert f"1 {state}" in said
    assert f"retry={state}" in said
    assert not composed
    ended.path.unlink()
    assert command(*ended.words) == (0, said, "")


def test_runs_of_other_code_are_named(ended, composed, command):
    ended.finish(code="c0de")
    assert "4 of other code" in command(*ended.words)[1]
    assert not composed


def test_a_run_that_is_gone_is_planned_again(ended, command):
    name = min(ended.ids())
    shutil.rmtree(ended.folder / "runs" / name)
    assert "starting 1" in command(*ended.words)[1]
    assert name in ended.ids()


@pytest.mark.parametrize("lost", ["summary.json", "status.json"])
def test_a_run_without_its_end_is_open(ended, lost):
    (ended.folder / "runs" / min(ended.ids()) / lost).unlink()
    assert ended.known() is None


@pytest.mark.parametrize("state", ["pending", "running", "preempted", "paused"])
def test_a_run_that_has_not_ended_is_open(ended, state):
    ended.plan.directory(min(ended.ids())).set_status(state)
    assert ended.known() is None


def test_a_run_that_the_plan_has_lost_is_planned_again(ended):
    path = ended.plan.path / "plan.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    assert ended.known() is None


def test_a_changed_value_in_a_choice_gives_other_runs(ended, command):
    before = ended.ids()
    ended.choice.write_text(MINE.replace("0.3", "0.4"))
    assert "4 runs: 4 new; starting 4" in command(*ended.words)[1]
    assert len(ended.ids() - before) == 4


def test_changed_data_give_other_runs(tmp_path, monkeypatch, composed, command):
    def write(seed):
        draw = np.random.default_rng(seed)
        inputs, targets = draw.normal(size=(40, 3)), draw.integers(2, size=40)
        np.savez(tmp_path / "own.npz", x_train=inputs, y_train=targets, x_test=inputs, y_test=targets)

    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    sweep = Sweep(tmp_path, "dataset=arrays", f"dataset.path={tmp_path / 'own.npz'}", "sweep=own")
    write(0)
    command(*sweep.words)
    sweep.finish()
    assert sweep.known() is not None
    write(1)
    assert sweep.known() is None
    assert "4 new" in command(*sweep.words)[1]
    assert len(sweep.ids()) == 8


def change_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTBENCH_DATA", str(tmp_path / "elsewhere"))


def change_code(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "fingerprint", lambda: "c0de")


def change_packages(tmp_path, monkeypatch):
    (tmp_path / "library" / "another-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "library"))


def change_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def change_plugin(tmp_path, monkeypatch):
    (tmp_path / "plugin.py").write_text("another sweeper")
    monkeypatch.setattr(cell_cache, "_PLUGIN", tmp_path / "plugin.py")


@pytest.mark.parametrize("change", [change_variable, change_code, change_packages, change_place, change_plugin])
def test_all_that_decides_is_in_the_key(ended, monkeypatch, tmp_path, change):
    assert ended.known() is not None
    change(tmp_path, monkeypatch)
    assert ended.known() is None


def test_other_words_are_another_command(ended):
    for word in ("eval_every=2", "retry=failed", "force=true", "dry_run=true", "scale=null"):
        assert ended.known(word) is None


def test_another_file_among_the_own_choices_is_in_the_key(ended):
    (ended.choice.parents[1] / "extra.yaml").write_text("a: 1\n")
    assert ended.known() is None


def test_a_variable_that_an_own_choice_reads_is_in_the_key(ended, monkeypatch):
    ended.choice.write_text(MINE.replace("0.3", "${oc.env:MY_RATE,0.3}"))
    keys = [CellCache(ended.words)._key]
    for value in ("", "0.5", "0.6"):
        monkeypatch.setenv("MY_RATE", value)
        keys.append(CellCache(ended.words)._key)
    assert len({*keys} - {None}) == 4


@pytest.mark.parametrize("value", ["${now:%f}", "${oc.env:${name}}", "${oc.env:A,${oc.env:B,1}}", "${${name}:x}"])
def test_a_choice_with_another_interpolation_is_not_kept(ended, value):
    assert CellCache([*ended.words, "model.depth=${seed}"])._key is not None
    assert CellCache([*ended.words, f"optimizer.learning_rate={value}"])._key is None
    ended.choice.write_text(MINE.replace("0.3", value))
    assert CellCache(ended.words)._key is None


@pytest.mark.parametrize("words", [["retry=failed"], ["force=true"], ["dry_run=true"]])
def test_a_command_that_asks_for_more_keeps_nothing(ended, command, words):
    ended.path.unlink()
    assert command(*ended.words, *words)[0] == 0
    assert not ended.path.exists()


@pytest.mark.parametrize(
    "where", ["key", "run id", "a letter", "cut", "nothing", "not JSON", "a list", "no runs", "sample", "other id"]
)
def test_a_damaged_file_is_ignored(ended, where):
    content = ended.path.read_bytes()
    first, line = content.split(b"\n", 1)
    said = json.loads(line)
    one, other = said["runs"][:2]

    def signed(value):
        text = json.dumps(value).encode()
        return first.split()[0] + b" " + cell_cache._digest(text).encode() + b"\n" + text

    assert signed(said) == content
    unread = b"{"
    changed = {
        "key": b"0" * 32 + content[32:],
        "run id": content.replace(one.encode(), other.encode()),
        "a letter": content.replace(b'"axes"', b'"axis"'),
        "cut": content[:-1],
        "nothing": b"",
        "not JSON": first.split()[0] + b" " + cell_cache._digest(unread).encode() + b"\n" + unread,
        "a list": signed([]),
        "no runs": signed({}),
        "sample": signed({**said, "samples": [[one, {"optimizer": 1}]]}),
        "other id": signed({**said, "samples": [[other, asked] for _, asked in said["samples"]]}),
    }
    assert changed[where] != content
    ended.path.write_bytes(changed[where])
    assert ended.known() is None


def test_a_link_is_ignored(ended, tmp_path):
    ended.path.rename(tmp_path / "composed.json")
    ended.path.symlink_to(tmp_path / "composed.json")
    assert ended.known() is None


def test_a_file_of_another_results_folder_is_ignored(ended, tmp_path):
    shutil.copytree(ended.folder, tmp_path / "copied")
    words = [*ended.words[:-1], f"results_dir={tmp_path / 'copied'}"]
    path = plans(tmp_path / "copied")[0].path / "composed.json"
    path.write_bytes(CellCache(words)._key.encode() + ended.path.read_bytes()[32:])
    assert CellCache(words).find() is None


def test_a_choice_that_changes_while_it_is_composed_is_not_kept(ended, monkeypatch, command):
    def changed_meanwhile(*arguments, **options):
        found = expand(*arguments, **options)
        ended.choice.write_text(MINE.replace("0.3", "0.4"))
        return found

    expand = grids.expand
    monkeypatch.setattr(grids, "expand", changed_meanwhile)
    ended.path.unlink()
    assert "4 done" in command(*ended.words)[1]
    assert not ended.path.exists()


def test_a_kill_or_a_full_disk_while_it_is_written_leaves_the_old_file_or_the_new_one(ended, command, monkeypatch):
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(CellCache, "keep", lambda *arguments: kept.append(arguments))
        content = ended.path.read_bytes()
        ended.path.unlink()
        command(*ended.words)
    (arguments,) = kept

    def dying(number):
        die_at(number)
        CellCache.keep(*arguments)

    for before in (None, b"of earlier words"):
        number = 0
        while True:
            ended.path.unlink(missing_ok=True)
            if before is not None:
                ended.path.write_bytes(before)
            status = wait(fork(dying, number))
            assert (ended.path.read_bytes() if ended.path.exists() else None) in (before, content)
            if status != DIED:
                break
            number += 1
        assert number > 1
        assert ended.path.read_bytes() == content
    with ended.plan.locked():  # by the next command of the sweep
        assert not [*ended.plan.path.glob(".*.tmp")]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "rename", full)
    CellCache.keep(*arguments)
    assert ended.path.read_bytes() == content

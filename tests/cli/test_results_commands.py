"""rm, prune, du, merge, tag and note, on results that are written by hand: nothing is trained."""

import json
import os
import shutil
from itertools import count
from pathlib import Path

import pytest
from mortal_workers import DIED, die_at, fork, wait

from optbench import config as configuration
from optbench.__main__ import main
from optbench.cli import named
from optbench.store import RunDirectory, RunLock, load
from optbench.store.removing import hidden
from optbench.sweep.plan import Entry, Plan, plans

WORDS = ["dataset=digits", "model=mlp", "tracker=none", "budget.steps=4"]


pytestmark = pytest.mark.usefixtures("an_empty_folder_and_an_empty_queue")


def make_run(seed, state="done", loss=0.5, results="results"):
    config = configuration.compose([*WORDS, f"seed={seed}"])
    run = RunDirectory.at(results, configuration.run_id(config))
    run.create(config)
    if state == "pending":
        return run
    run.append({"event": "evaluation", "step": 4, "seconds": 1.0 + seed, "validation_loss": loss})
    run.checkpoint.parent.mkdir()
    run.checkpoint.write_bytes(b"c" * 1000)
    run.log.write_text("l" * 100)
    if state in ("done", "diverged"):
        summary = {
            "run_id": run.run_id,
            "seed": seed,
            "optimizer": "sgd",
            "validation_loss": loss,
            "seconds_training": seed,
        }
        run.finish(summary, state)
    else:
        run.set_status(state)
    return run


def make_sweep(name, runs, results="results"):
    plan = Plan(results, name)
    plan.extend(
        [Entry(run.run_id, {"seed": str(number)}) for number, run in enumerate(runs)], {"command": ["-m", name]}
    )
    return plan


def snapshot(folder="results"):
    """Every file with its content."""
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def killed_at(number, words):
    """True if the command, in a process of its own, dies at its ``number``-th change to the file system."""

    def run():
        die_at(number)
        os._exit(main(words))

    status = wait(fork(run))
    assert status in (0, DIED)
    return status == DIED


def kills(words, step=1):
    """Kill the command at one change after the other, always from the results as they are now; ends when it was not killed."""
    shutil.copytree("results", "before")
    for number in count(0, step):
        shutil.rmtree("results")
        shutil.copytree("before", "results")
        if not killed_at(number, words):
            assert number > 30
            return
        yield number


# ---- rm ----------------------------------------------------------------------------------------------------------------------


def test_rm_removes_a_sweep_and_the_runs_that_no_other_sweep_lists(command):
    runs = [make_run(seed) for seed in range(3)]
    make_sweep("one", runs[:2])
    make_sweep("two", runs[1:])
    Path("results/one").mkdir()
    status, said, _ = command("rm", "one", "--yes")
    assert status == 0
    assert "1 run that other sweeps list, too, will stay" in said
    assert "removed the sweep one and 1 run (1 done), " in said
    assert "one: its report stays in results/one" in said
    assert [path.name for path in Path("results/runs").iterdir()] == [run.run_id for run in runs[1:]]
    assert [path.name for path in Path("results/sweeps").iterdir()] == ["two"]


def test_rm_removes_a_run_and_names_the_sweeps_that_miss_it(command):
    run = make_run(0)
    make_sweep("one", [run])
    status, said, _ = command("rm", run.run_id[-8:], "--yes")
    assert (status, list(Path("results/runs").iterdir())) == (0, [])
    assert "one: lists runs of these, which count as missing there now" in said
    assert command("status", "one")[1].startswith("one: 1 run: 1 missing")


def test_nothing_is_lost_without_a_yes(command, monkeypatch):
    run = make_run(0)
    before = snapshot()
    status, said, error = command("rm", run.run_id)
    assert (status, said) == (2, "")
    assert error.startswith("optbench: Remove 1 run (1 done), ")
    assert error.endswith("--yes\n")
    assert command("prune", run.run_id)[0] == 2
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer in ("", "n", "no"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert command("rm", run.run_id)[:2] == (1, "nothing is removed\n")
        assert command("prune", run.run_id)[:2] == (1, "nothing is removed\n")
    assert snapshot() == before
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert command("rm", run.run_id)[0] == 0
    assert snapshot() == {}


@pytest.mark.parametrize(
    "words", [["rm", "--yes"], ["prune", "--yes"], ["tag", "new"], ["note", "text"]], ids=lambda w: w[0]
)
@pytest.mark.parametrize("name", ["run", "sweep"])
def test_what_somebody_is_at_work_on_is_left_alone(command, words, name):
    run = make_run(0)
    make_sweep("one", [run, make_run(1)])
    chosen = run.run_id if name == "run" or words[0] == "note" else "one"
    with RunLock(run.lock):
        before = snapshot()
        status, said, error = command(words[0], chosen, *words[1:])
        assert (status, said) == (2, "")
        assert f"process {os.getpid()} on {os.uname().nodename} is at work on" in error
        assert snapshot() == before


def test_rm_refuses_a_run_of_a_sweep_at_work_that_may_take_it(command, monkeypatch):
    run = make_run(0, "pending")
    plan = make_sweep("one", [run])
    plan.note_job(kind="slurm", ids=["77_0"])
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {"77_0": "RUNNING"})
    status, _, error = command("rm", run.run_id, "--yes")
    assert (status, run.path.is_dir()) == (2, True)
    assert "Slurm job 77_0 is at work on the sweep one; accepted: when it has ended, or after" in error


@pytest.mark.parametrize("command_word", ["rm", "prune", "du", "tag", "note", "resume"])
def test_a_name_of_nothing(command, command_word):
    make_sweep("one", [make_run(0)])
    more = ["--yes"] if command_word in ("rm", "prune") else []
    status, said, error = command(command_word, "no-such", *more)
    assert (status, said) == (2, "")
    assert "no run 'no-such' in results/runs" in error
    assert command(command_word, "../one", *more)[0] == 2


def test_links_are_not_followed(command, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x" * 10_000)
    run = make_run(0)
    (run.path / "wandb").mkdir()
    (run.path / "wandb" / "latest").symlink_to(elsewhere)
    linked = make_run(1)
    shutil.rmtree(linked.checkpoint.parent)
    linked.checkpoint.parent.symlink_to(elsewhere)
    assert command("prune", linked.run_id, "--yes")[0] == 1
    assert command("rm", linked.run_id, "--yes")[0] == 1
    assert json.loads(command("du", run.run_id, "--json")[1])["total"]["logs"] < 1000
    assert command("rm", run.run_id, "--yes")[0] == 0
    assert (elsewhere / "precious").read_text() == "x" * 10_000


@pytest.mark.slow
def test_a_kill_while_removing_leaves_nothing_half(command):
    make_sweep("one", [make_run(seed) for seed in range(2)])
    make_run(7)
    whole = snapshot()
    for _ in kills(["rm", "one", "--yes"], step=3):
        left = snapshot()
        assert {plan.name for plan in plans("results")} <= {"one"}
        for folder in [*Path("results/runs").glob("[!.]*"), *Path("results/sweeps").glob("[!.]*")]:
            inside = {path for path in whole if path.startswith(f"{folder}/")}
            # All of it is there, and beside it the files of the lock.
            assert {path: left.get(path) for path in inside} == {path: whole[path] for path in inside}
        # What was half removed goes with whatever is removed next.
        [other] = [path.name for path in Path("results/runs").glob("*-s7-*")]
        names = ["one"] if Path("results/sweeps/one").exists() else []
        assert command("rm", *names, other, "--yes")[0] == 0
        assert snapshot() == {}


def test_a_sweep_that_is_half_removed_is_none(command):
    make_sweep("one", [make_run(0)])
    shutil.move("results/sweeps/one", hidden(Path("results/sweeps/one"), "removed"))
    assert plans("results") == []
    assert json.loads(command("du", "--json")[1])["sweeps"].keys() == {"(of no sweep)", "(half removed)"}


# ---- prune and du ------------------------------------------------------------------------------------------------------------


def test_prune_keeps_results_and_what_is_to_be_continued(command):
    runs = [make_run(0), make_run(1, "diverged"), make_run(2, "preempted"), make_run(3, "pending")]
    make_sweep("one", runs)
    before = load()
    status, said, _ = command("prune", "one", "--yes")
    assert status == 0
    assert said == "removed the checkpoints of 2 runs: 2000 bytes (2 kB); 2 runs not finished, left alone\n"
    assert [run.checkpoint.exists() for run in runs] == [False, False, True, False]
    assert all(run.is_finished for run in runs[:2])
    assert load().equals(before)
    assert command("prune", "one", "--yes")[:2] == (
        0,
        "no checkpoints of finished runs; 2 runs not finished, left alone\n",
    )


def test_prune_says_that_the_checkpoints_of_paused_runs_are_needed(command):
    runs = [make_run(0), make_run(1, "paused"), make_run(2, "paused")]
    make_sweep("one", runs)
    said = command("prune", "one", "--yes")[1]
    assert said == (
        "removed the checkpoints of 1 run: 1000 bytes (1 kB); 2 runs not finished, left alone "
        "(2 paused: a search continues them from their checkpoints)\n"
    )
    assert [run.checkpoint.exists() for run in runs] == [False, True, True]


def test_du_says_what_takes_the_room(command):
    runs = [make_run(seed) for seed in range(3)]
    make_sweep("one", runs[:2])
    make_sweep("two", runs[1:2])
    status, said, _ = command("du", "--json")
    found = json.loads(said)
    assert status == 0
    assert {name: kinds["checkpoints"] for name, kinds in found["sweeps"].items()} == {
        "one": 2000,
        "two": 1000,
        "(of no sweep)": 1000,
    }
    assert (found["total"]["checkpoints"], found["total"]["logs"]) == (3000, 300)
    histories = sum(path.stat().st_size for path in Path("results").rglob("history.*"))
    assert found["total"]["histories"] == histories
    assert sum(found["total"].values()) == sum(map(len, snapshot().values()))
    shown = command("du", "one")[1]
    assert "2 kB" in shown
    assert "two" not in shown
    assert [named.in_bytes(size) for size in (0, 999, 1000, 123_456, 2.5e9)] == [
        "0 B",
        "999 B",
        "1 kB",
        "123 kB",
        "2.5 GB",
    ]


# ---- merge -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def other():
    """Another machine's results: a sweep of a done, a diverged, a preempted and a pending run."""
    states = ["done", "diverged", "preempted", "pending"]
    runs = [make_run(seed, state, results="other") for seed, state in enumerate(states)]
    make_sweep("one", runs, "other")
    return runs


def test_merge_takes_what_has_finished_and_the_plans(command, other):
    mine = make_run(9)
    make_sweep("one", [mine])
    before = snapshot()
    dry = command("merge", "other", "--dry-run")
    assert dry[:2] == (
        0,
        "other: 2 new runs, 2 runs not finished there, not taken, the sweep one gains 4 runs; --dry-run takes nothing\n",
    )
    assert snapshot() == before
    assert command("merge", "other")[0] == 0
    assert {run.run_id for run in other[:2]} | {mine.run_id} == {path.name for path in Path("results/runs").iterdir()}
    for run in other[:2]:
        here, there = snapshot(f"results/runs/{run.run_id}"), snapshot(f"other/runs/{run.run_id}")
        assert {path.replace("results/", "other/", 1): content for path, content in here.items()} == there
    assert [entry.run_id for entry in Plan("results", "one").entries()] == [mine.run_id, *(run.run_id for run in other)]
    assert Plan("results", "one").information()["command"] == ["-m", "one"]
    after = snapshot()
    assert command("merge", "other")[:2] == (
        0,
        "other: 0 new runs, 2 runs the same here, 2 runs not finished there, not taken\n",
    )
    assert snapshot() == after


@pytest.mark.parametrize(
    ("here", "step", "expected"),
    [("paused", 30, "same"), ("paused", 60, "same"), ("paused", 10, "replaced"), ("pending", None, "replaced"),
     ("preempted", None, "same"), ("done", None, "same")],
)  # fmt: skip
def test_merge_takes_a_paused_run_where_this_one_is_not_as_far(command, here, step, expected):
    there = make_run(0, "paused", results="other")
    there.set_status("paused", "at step 30 of 90", step=30)
    assert command("merge", "other", "--dry-run")[1].startswith("other: 1 new run; --dry-run")
    mine = make_run(0, here)
    if here == "paused":
        mine.set_status("paused", step=step)
    status, said, _ = command("merge", "other", "--yes")
    assert status == 0
    assert ("1 run in place of unfinished ones here" in said, "1 run the same here" in said) == (
        expected == "replaced",
        expected == "same",
    )
    assert (mine.status() == there.status()) == (expected == "replaced")


def test_merge_replaces_what_has_not_finished_here_if_it_may(command, other):
    mine = make_run(0, "preempted")
    assert command("merge", "other")[0] == 2
    assert mine.status().state == "preempted"
    assert "1 run in place of unfinished ones here" in command("merge", "other", "--yes")[1]
    assert mine.is_finished


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda run: make_other_results(run), "validation_loss at step 4: 0.5 here, 0.75 there"),
        (lambda run: change(run, "batch: 128", "batch: 64"), "its frozen configuration is that of the run"),
        (lambda run: change(run, "torch.optim", "os.system"), "its frozen configuration does not hold here"),
        (lambda run: (run.path / "probes").symlink_to("/etc"), "is a symbolic link"),
    ],
    ids=["results", "science", "target", "link"],
)
def test_merge_names_what_differs_and_takes_nothing(command, other, spoil, named):
    make_run(0)
    spoil(other[0])
    before = snapshot()
    status, said, _ = command("merge", "other")
    assert status == 1
    assert said.startswith(f"{other[0].run_id}: ")
    assert named in said
    assert said.endswith("1 run of other cannot be taken, so nothing is\n")
    assert snapshot() == before


def test_merge_takes_no_new_run_whose_configuration_could_not_be_planned_here(command, other):
    change(other[0], "torch.optim", "os.system")
    status, said, _ = command("merge", "other")
    assert (status, Path("results/runs").exists()) == (1, False)
    assert said.startswith(f"{other[0].run_id}: run {other[0].run_id}: its frozen configuration does not hold here")


def make_other_results(run):
    shutil.rmtree(run.path)
    make_run(0, loss=0.75, results="other")


def change(run, old, new):
    path = run.path / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("where", ["here", "there"])
def test_merge_waits_for_nobody(command, other, where):
    run = make_run(0, "preempted") if where == "here" else other[0]
    with RunLock(run.lock):
        status, said, _ = command("merge", "other", "--yes")
    assert status == 1
    assert f"{run.run_id}: process {os.getpid()} on {os.uname().nodename} is at work on it {where}\n" in said
    assert run.run_id == other[0].run_id
    assert len(list(Path("results/runs").glob("*"))) == (1 if where == "here" else 0)


def test_times_may_differ(command, other):
    make_run(0)
    row = json.loads(other[0].history.read_text())
    other[0].history.write_text(json.dumps(row | {"seconds": 99.0}) + "\n")
    assert "1 run the same here" in command("merge", "other")[1]


@pytest.mark.slow
def test_a_kill_while_merging_leaves_nothing_half(command, other):
    make_run(1, "preempted")
    for _ in kills(["merge", "other", "--yes"], step=3):
        for path in Path("results/runs").glob("[!.]*"):
            here = RunDirectory(path)
            if here.is_finished:
                assert {file.name for file in path.iterdir()} == {
                    file.name for file in Path("other/runs", path.name).iterdir()
                }
            else:
                assert here.status().state == "preempted"
                assert here.checkpoint.exists()
        assert command("merge", "other", "--yes")[0] == 0
        for run in other[:2]:
            here = snapshot(f"results/runs/{run.run_id}").items()
            assert {path.replace("results/", "other/", 1): content for path, content in here} == snapshot(str(run.path))
        assert not list(Path("results/runs").glob(".*"))
        assert len(Plan("results", "one").entries()) == 4


def test_merge_refuses_what_is_no_results_folder(command):
    make_run(0)
    assert "is no results folder; accepted: a folder that has a folder runs/" in command("merge", "nowhere")[2]
    assert "is the results folder itself" in command("merge", "results/../results")[2]


# ---- tags and notes ---------------------------------------------------------------------------------------------------------


def test_tags_and_notes_are_columns(command):
    runs = [make_run(seed) for seed in range(2)]
    make_sweep("one", runs)
    assert "tags" not in load().columns
    assert command("tag", "one", "paper", "v2")[:2] == (0, "one: 2 runs now with paper v2\n")
    assert command("tag", runs[0].run_id, "best", "--remove", "v2")[1] == f"{runs[0].run_id}: best paper\n"
    assert command("note", runs[1].run_id, "looks odd\x1b[31m")[0] == 0
    frame = load().set_index("run_id")
    assert frame["tags"].to_dict() == {runs[0].run_id: "best,paper", runs[1].run_id: "paper,v2"}
    assert frame["note"].to_dict() == {runs[0].run_id: "", runs[1].run_id: "looks odd\x1b[31m"}
    assert command("note", runs[1].run_id)[1] == f"{runs[1].run_id}: looks odd\\u001b[31m\n"
    assert "best,paper" in command("status")[1]
    assert "tags: best (1), paper (2), v2 (1)" in command("status", "one")[1]
    assert [run["tags"] for run in json.loads(command("status", "--json")[1])["runs"]] == ["best,paper", "paper,v2"]
    command("tag", "one", "--remove", "best", "--remove", "paper", "--remove", "v2")
    command("note", runs[1].run_id, "")
    assert "tags" not in load().columns
    assert not any(Path("results").rglob("notes.json"))
    assert command("tag", runs[0].run_id)[1] == f"{runs[0].run_id}: no tags\n"


@pytest.mark.parametrize("word", ["a,b", "", "two words", "+x", "x" * 51, "\x1b"])
def test_words_that_are_no_tags(command, word):
    run = make_run(0)
    assert command("tag", run.run_id, word)[0] == 2
    assert not (run.path / "notes.json").exists()


def test_notes_survive_a_run_that_starts_over(command):
    run = make_run(0)
    command("tag", run.run_id, "keep")
    run.clear()
    assert load()["tags"].tolist() == ["keep"]


def test_a_damaged_note_is_no_note(command):
    run = make_run(0)
    (run.path / "notes.json").write_text('{"tags": [1, "a,b", "fine"], "note": 3}')
    assert load()["tags"].tolist() == ["fine"]
    (run.path / "notes.json").write_text("{")
    assert "tags" not in load().columns
    assert command("tag", run.run_id)[0] == 1

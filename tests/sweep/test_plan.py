import json
import os
import re

import pytest
from mortal_workers import DIED, die_at, fork, wait

from optbench.errors import UserError
from optbench.store import RunDirectory, RunLock, RunLocked, StoreError
from optbench.sweep import plan as plan_module
from optbench.sweep.plan import Entry, Plan, plans


def entries(*numbers):
    return [Entry(f"run{number}", {"seed": str(number)}) for number in numbers]


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path, "name")


def test_a_new_plan(plan, tmp_path):
    assert not plan.exists
    assert (plan.entries(), plan.information(), plan.jobs()) == ([], {}, [])
    assert plan.extend(entries(2, 1), {"command": ["seed=2,1"]}) == 2
    assert plan.exists
    assert plan.entries() == entries(2, 1)
    assert plan.information() == {"name": "name", "command": ["seed=2,1"]}
    assert plan.path == tmp_path / "sweeps" / "name"
    assert plan.directory("run2").path == RunDirectory.at(tmp_path, "run2").path
    assert {path.name for path in plan.path.iterdir()} == {"plan.jsonl", "sweep.json"}


def test_a_wider_grid_adds_what_is_new_at_the_end(plan):
    plan.extend(entries(5, 3), {"command": "old"})
    assert plan.extend([*entries(1, 3, 2), Entry("run5", {"seed": "another spelling"}), *entries(1)], {}) == 2
    assert plan.entries() == entries(5, 3, 1, 2)
    assert plan.information() == {"name": "name"}
    assert plan.extend(entries(3), {"command": "new"}) == 0
    assert plan.entries() == entries(5, 3, 1, 2)
    assert plan.information()["command"] == "new"


@pytest.mark.parametrize("cut", range(1, len('{"run_id": "run2", "cell": {"seed": "2"}}\n')))
def test_a_cut_last_line_is_ignored_and_repaired(plan, cut):
    plan.extend(entries(1, 2), {})
    path = plan.path / "plan.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = entries(1, 2) if cut == 1 else entries(1)  # without its line end it can still be read
    assert plan.entries() == kept
    assert plan.extend(entries(3), {}) == 1
    assert plan.entries() == [*kept, *entries(3)]
    plan.extend(entries(1, 2, 3), {})
    assert path.read_bytes().count(b"\n") == len(plan.entries()) == 3
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def extend_in_turns(results_dir, number, rounds):
    for turn in range(rounds):
        mine = Plan(results_dir, f"sweep{turn % 3}")
        mine.extend(entries(turn, f"{turn}-{number}"), {"by": number})


def check_concurrent_extensions(results_dir, rounds, processes=4):
    pids = [fork(extend_in_turns, results_dir, number, rounds) for number in range(processes)]
    assert [wait(pid) for pid in pids] == [0] * processes
    for sweep in range(3):
        found = Plan(results_dir, f"sweep{sweep}").entries()
        turns = range(sweep, rounds, 3)
        expected = [entry for turn in turns for entry in entries(turn, *(f"{turn}-{n}" for n in range(processes)))]
        assert sorted(found, key=str) == sorted(expected, key=str)
        for number in range(processes):  # each finds its own in the order in which it added them
            own = [entry.run_id for entry in found if entry.run_id.endswith(f"-{number}")]
            assert own == [f"run{turn}-{number}" for turn in turns]


def test_plans_extended_by_several_at_once_lose_nothing(tmp_path):
    check_concurrent_extensions(tmp_path, rounds=9)


@pytest.mark.slow
def test_plans_extended_very_often_by_several_at_once_lose_nothing(tmp_path):
    check_concurrent_extensions(tmp_path, rounds=150)


def test_a_crash_anywhere_while_extending_leaves_a_plan(tmp_path):
    number, status = 0, DIED
    lengths = set()
    while status == DIED:
        plan = Plan(tmp_path, f"sweep{number}")
        plan.extend(entries(1, 2), {"version": 1})

        def extend(plan=plan, number=number):
            die_at(number)
            plan.extend(entries(2, 3, 4), {"version": 2})

        status = wait(fork(extend))
        assert plan.entries() in (entries(1, 2), entries(1, 2, 3, 4))
        assert plan.information()["version"] in (1, 2)
        lengths.add((len(plan.entries()), plan.information()["version"]))
        plan.extend(entries(1, 2, 3, 4, 5), {"version": 3})
        assert plan.entries() == entries(1, 2, 3, 4, 5)
        assert plan.information()["version"] == 3
        number += 1
    assert lengths == {(2, 1), (4, 1), (4, 2)}


def test_a_crash_anywhere_while_a_plan_is_made_leaves_none_or_all_of_it(tmp_path):
    number, status = 0, DIED
    while status == DIED:
        plan = Plan(tmp_path, f"sweep{number}")

        def extend(plan=plan, number=number):
            die_at(number)
            plan.extend(entries(1, 2), {})

        status = wait(fork(extend))
        assert plan.entries() == (entries(1, 2) if plan.exists else [])
        assert plan.information() in ({}, {"name": plan.name})
        assert {other.name for other in plans(tmp_path)} >= ({plan.name} if plan.exists else set())
        plan.extend(entries(1, 2, 3), {})
        assert plan.entries() == entries(1, 2, 3)
        number += 1
    assert number > 5


def test_a_plan_that_somebody_extends_for_ever_is_not_waited_for_as_long(plan, monkeypatch):
    monkeypatch.setattr(plan_module, "_PATIENCE_SECONDS", 0.1)
    plan.extend(entries(1), {})
    with RunLock(plan.path / "plan.lock"), pytest.raises(RunLocked, match=r"plan\.lock is held by process"):
        plan.extend(entries(2), {})
    assert plan.entries() == entries(1)


def test_a_folder_that_refuses_is_reported(tmp_path):
    (tmp_path / "sweeps").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"cannot create .*sweeps/name: "):
        Plan(tmp_path, "name").extend(entries(1), {})


def test_find_names_those_that_come_near(tmp_path):
    for name in ("batch_scaling", "momentum"):
        Plan(tmp_path, name).extend(entries(1), {})
    (tmp_path / "sweeps" / "batch_scalings").mkdir()  # holds no plan
    assert Plan.find(tmp_path, "momentum").entries() == entries(1)
    with pytest.raises(UserError, match=re.escape(f"no sweep 'batch_scale' in {tmp_path / 'sweeps'}")) as caught:
        Plan.find(tmp_path, "batch_scale")
    assert str(caught.value).endswith("did you mean batch_scaling?")
    with pytest.raises(UserError, match="accepted: batch_scaling, momentum"):
        Plan.find(tmp_path, "xyz")
    with pytest.raises(UserError, match="no sweep 'momentum'"):
        Plan.find(tmp_path / "elsewhere", "momentum")


def test_plans_are_listed_by_name(tmp_path):
    assert plans(tmp_path) == []
    for name in ("b", "a"):
        Plan(tmp_path, name).extend(entries(1), {})
    (tmp_path / "sweeps" / "empty").mkdir()
    assert [plan.name for plan in plans(tmp_path)] == ["a", "b"]


def test_jobs_come_back_as_they_were_noted(plan):
    plan.extend(entries(1), {})
    plan.note_job(kind="slurm", jobs=["12_0", "12_1"])
    plan.note_job(kind="local", pid=7)
    first, second = plan.jobs()
    assert (first["kind"], first["jobs"]) == ("slurm", ["12_0", "12_1"])
    assert (second["kind"], second["pid"]) == ("local", 7)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second["since"])


def test_a_noted_job_is_one_write(plan, monkeypatch):
    plan.extend(entries(1), {})
    written, write = [], os.write
    monkeypatch.setattr(os, "write", lambda file, content: (written.append(bytes(content)), write(file, content))[1])
    plan.note_job(kind="local", text="x" * 100_000)
    assert written == [(plan.path / "jobs.jsonl").read_bytes()]


def test_jobs_noted_by_several_at_once_keep_whole_lines(plan):
    plan.extend(entries(1), {})

    reading, writing = os.pipe()

    def note(number):
        os.close(writing)
        os.read(reading, 1)  # until all are there
        for turn in range(100):
            plan.note_job(by=number, turn=turn, text="x" * 3000)

    pids = [fork(note, number) for number in range(4)]
    os.close(writing)
    os.close(reading)
    assert [wait(pid) for pid in pids] == [0] * 4
    lines = (plan.path / "jobs.jsonl").read_bytes().splitlines()
    assert len(lines) == len(plan.jobs()) == 400
    for number in range(4):
        assert [job["turn"] for job in plan.jobs() if job["by"] == number] == [*range(100)]


def test_an_experiment_is_found_by_its_name_at_the_scale_that_was_started_last(tmp_path):
    for number, scale in enumerate(("smoke", "laptop", "full")):
        plan = Plan(tmp_path, f"study-{scale}")
        plan.extend(entries(number + 1), {"experiment": "study", "scale": scale})
        os.utime(plan.path / "sweep.json", (1000 + (scale == "laptop"), 1000 + (scale == "laptop")))
    assert Plan.find(tmp_path, "study").name == "study-laptop"
    assert Plan.find(tmp_path, "study-smoke").name == "study-smoke"

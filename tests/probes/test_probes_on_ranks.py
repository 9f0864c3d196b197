"""Two ranks find what one finds, and a probe that fails on one of them ends for both."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from optbench import config
from optbench.probes import SCHEDULE_OPTIONS
from optbench.training import run

# The two ranks are started once for all tests: one worker does them all.
pytestmark = pytest.mark.xdist_group("probes_on_ranks")

ROOT = Path(__file__).parents[2]
PROBES = sorted(set(config.choices("probe")) - {"none"})
WORDS = [
    "model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", "dataset=digits", "dataset.train_limit=40",
    "dataset.validation=16", "batch=16", "ghost_batch_size=4", "micro_batch=4", "precision=fp64", "budget.steps=2",
    "eval_every=100steps", "evaluate_train=16", "tracker=none", "progress=false", f"probe=[{','.join(PROBES)}]",
]  # fmt: skip
# Cheaper, and with examples that do not divide equally over two ranks.
SMALLER = {
    "examples": 15, "points": 3, "vectors": 1, "probes": 1, "most": 2, "iterations": 2, "draws": 1, "every": 1,
    "log_spaced": "null", "start": "true", "batch_sizes": "[1,5]", "box_dimensions": 2, "largest": 1, "smallest": 1,
    "closest": 0.001, "per_decade": 2,
}  # fmt: skip
STEPS = {"spectrum": 3, "eigenvalues": 3, "stability": 3, "batch_hessian": 2, "profile": 3}
for name in PROBES:
    known = config.read_choice("probe", name)["info"]["schema"]
    options = SMALLER | ({"steps": STEPS[name]} if name in STEPS else {})
    options |= {"points": 100} if name == "spectrum" else {}
    # At the start it halves the share of each rank, which makes parts of another size.
    options |= {"start": "false"} if name == "noise_scale" else {}
    WORDS += [f"probe.{name}.{option}={value}" for option, value in options.items() if option in known]

RANK = """
import sys
from optbench.__main__ import main
words = sys.argv[2:]
if sys.argv[1] == "failing":
    import torch.distributed as dist
    from optbench.probes.spectrum import Spectrum
    measure = Spectrum.measure

    def fail_on_rank_1(self, context):
        found = measure(self, context)
        if dist.get_rank() == 1:
            raise MemoryError("no room on this rank")
        return found

    Spectrum.measure = fail_on_rank_1
sys.exit(main(words))
"""


def on_two_ranks(kind, words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*words, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        environment = os.environ | {
            key: str(value) for key, value in (place | address | {"OMP_NUM_THREADS": 1}).items()
        }
        command = [sys.executable, "-c", RANK, kind, *words]
        processes.append(
            subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    problems = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(problems)[-4000:]


def found_in(folder):
    (path,) = (folder / "runs").iterdir()
    return [json.loads(line) for line in (path / "probes" / "index.jsonl").read_text().splitlines()], path


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    outcome = run.execute(config.compose([*WORDS, f"results_dir={one}"]))
    assert outcome.state == "done", outcome.why
    on_two_ranks("plain", [*WORDS, f"results_dir={two}"])
    return found_in(one)[0], found_in(two)[0]


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
def test_two_ranks_find_what_one_finds(probe, results):
    alone, together = ([line for line in lines if line["probe"] == probe] for lines in results)
    assert [line["step"] for line in alone] == [line["step"] for line in together]
    assert [line["step"] for line in alone] == ([1, 2] if probe == "noise_scale" else [0, 1, 2])
    for one, two in zip(alone, together, strict=True):
        assert one["values"].keys() == two["values"].keys()
        for name, value in one["values"].items():
            if value is None:
                assert two["values"][name] is None
            else:
                assert two["values"][name] == pytest.approx(value, rel=1e-6, abs=1e-9), (one["step"], name)
    assert SCHEDULE_OPTIONS.keys() <= alone[0]["options"].keys()


@pytest.mark.slow
def test_a_probe_that_fails_on_one_rank_fails_on_both_and_the_run_goes_on(tmp_path):
    words = [word for word in WORDS if not word.startswith("probe")] + ["probe=[spectrum,displacement]"]
    words += ["probe.spectrum.steps=2", "probe.spectrum.vectors=1", "probe.spectrum.examples=15"]
    on_two_ranks("failing", [*words, f"results_dir={tmp_path}"])
    lines, path = found_in(tmp_path)
    assert {line["probe"] for line in lines} == {"displacement"}
    rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    problems = [row["problem"] for row in rows if "problem" in row]
    assert problems == ["probe spectrum failed at step 0: RuntimeError: it failed on another rank"]
    assert json.loads((path / "status.json").read_text())["state"] == "done"

"""Measure on a GPU: the headline command in three precisions, K-FAC beside SGD, a step, and workers that share a device.

    benchmarks/gpu.sh [--small] [--output benchmarks/gpu.md]

First the tests marked gpu run. The headline is `python -m optbench optimizer=kfac model=wrn batch=4096`. Each of its rows is the
difference between a long and a short run, so that start-up, the first inverses and the choice of kernels do not count; the
steps between them hold one period of K-FAC's factors. ``--small`` runs every part with small networks on a CPU.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from step_cost import compare, synthetic

import optbench

ROOT = Path(__file__).resolve().parent.parent
PERIOD = 10  # steps from one update of K-FAC's factors to the next


def tests() -> str:
    """The last line of the tests marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-8000:], flush=True)
    return done.stdout.strip().splitlines()[-1].strip("= ")


def headline(small: bool, results: str) -> list[str]:
    """Rows of a table: optimizer, precision, milliseconds a step, examples a second, memory of the device, utilization."""
    words = ["model=wrn", "batch=4096", "dataset.train_limit=8192", "evaluate_train=512", "trainer.accelerator=gpu"]
    if small:
        words = [
            "model=wrn",
            "model.depth=10",
            "model.width=1",
            "dataset=digits",
            "batch=64",
            "trainer.accelerator=cpu",
        ]
    words += [f"data_dir={ROOT / 'data'}", "eval_every=100%"]
    precisions = ["fp32", "bf16"] if small else ["fp32", "tf32", "bf16"]
    rows: list[str] = []
    of_sgd: dict[str, float] = {}
    for precision in precisions:
        for optimizer in ("momentum", "kfac"):
            ends = []
            for steps in (PERIOD // 5, PERIOD // 5 + PERIOD):
                settings = [f"optimizer={optimizer}", f"precision={precision}", f"budget.steps={steps}"]
                ends.append(summary(small, f"{results}/{precision}-{optimizer}-{steps}", *words, *settings))
            seconds = (ends[1]["seconds_training"] - ends[0]["seconds_training"]) / PERIOD
            examples = (ends[1]["samples"] - ends[0]["samples"]) / PERIOD / seconds
            of_sgd.setdefault(precision, seconds)
            memory, used = ends[1]["peak_device_bytes"], ends[1]["model_flops_utilization"]
            rows.append(
                f"| {optimizer} | {precision} | {1e3 * seconds:.1f} | {seconds / of_sgd[precision]:.2f} | {examples:,.0f} "
                f"| {f'{memory / 1e9:.1f}' if memory else ''} | {f'{100 * used:.1f} %' if used else ''} |"
            )
            print(rows[-1], flush=True)
    return rows


def summary(small: bool, folder: str, *words: str) -> dict[str, Any]:
    """The summary of a run, on a GPU in a process of its own, whose memory counts alone."""
    words = (*words, "tracker=none", "progress=false", f"results_dir={folder}")
    if small:
        return dict(optbench.run(*words).summary or {})
    subprocess.run([sys.executable, "-m", "optbench", *words], check=True, stdout=subprocess.DEVNULL)
    [found] = optbench.load(folder).to_dict("records")
    return {str(name): value for name, value in found.items()}


def sharing(small: bool, results: str) -> list[str]:
    """Rows of a table: workers on one device, and the seconds of as many runs of LeNet-5."""
    runs, steps = (4, 20) if small else (8, 500)
    words = ["model=lenet5", "dataset=digits", f"budget.steps={steps}", "eval_every=100%", "tracker=none"]
    words += ["trainer.accelerator=cpu" if small else "trainer.accelerator=gpu", "launcher=local"]
    rows = []
    for workers in (1, 4):
        share = f"launcher.workers={workers}" if small else f"launcher.workers_per_device={workers}"
        began = time.perf_counter()
        found = optbench.sweep(
            *words, share, seed=optbench.grid(range(runs)), results_dir=f"{results}/{workers}", sweep=f"of{workers}"
        )
        assert {run.state for run in found} == {"done"}
        rows.append(f"| {workers} | {time.perf_counter() - began:.1f} |")
        print(rows[-1], flush=True)
    return rows


def steps(small: bool) -> list[str]:
    """Rows of a table: a step of a hand-written loop and of optbench, and their ratio."""
    cases = [("MLP 784-128-10, batch 128", ["model=mlp", "batch=128"], (1, 28, 28), 20 if small else 500)]
    if not small:
        cases.append(("ResNet-18, batch 64", ["model=resnet18", "batch=64"], (3, 32, 32), 100))
    rows = []
    for title, settings, shape, count in cases:
        common = ["optimizer=momentum", "tracker=none", "ghost_batch_size=null", *settings]
        data = synthetic(2_000 if small else 20_000, shape)
        bare, ours, ratio = compare(common, data, count, 2 if small else 5, "cpu" if small else "cuda")
        rows.append(f"| {title} | {bare:.3f} | {ours:.3f} | {ratio:.3f} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run all parts, and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="every part with small networks on a CPU")
    parser.add_argument("--output", type=Path, help="default: benchmarks/gpu.md, and nothing with --small")
    given = parser.parse_args()
    if not given.small and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: torch finds no CUDA device; accepted: a machine with one, or --small")
    output = given.output or (None if given.small else ROOT / "benchmarks" / "gpu.md")
    device = "a CPU, in small" if given.small else torch.cuda.get_device_name()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tested = tests()
        print(tested, flush=True)
        tables = (
            headline(given.small, f"{folder}/headline"),
            steps(given.small),
            sharing(given.small, f"{folder}/sharing"),
        )
    of_headline, of_steps, of_sharing = tables
    lines = [
        "# On a GPU",
        "",
        f"`benchmarks/gpu.sh` on {device}; torch {torch.__version__}. Tests marked gpu: {tested}.",
        "",
        "`python -m optbench optimizer=kfac model=wrn batch=4096` (WRN-28-10 on Fashion-MNIST), and the same with SGD with",
        "momentum. A step is the mean over ten, with one update of K-FAC's factors and none of its inverses.",
        "",
        "| optimizer | precision | ms a step | in SGD's | examples a second | peak memory, GB | model FLOPs utilization |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        *of_headline,
        "",
        "| step | bare loop, ms | optbench, ms | ratio |",
        "| --- | ---: | ---: | ---: |",
        *of_steps,
        "",
        "| workers on the device | seconds of all runs, start-up included |",
        "| ---: | ---: |",
        *of_sharing,
        "",
        f"All of it took {time.perf_counter() - began:.0f} s.",
        "",
    ]
    if output is not None:
        output.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

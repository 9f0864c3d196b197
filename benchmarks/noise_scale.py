"""Measure the time that `probe=noise_scale` adds to a training step: python benchmarks/noise_scale.py

Watched and plain steps alternate in one process; the result is the median over turns of processor seconds. By default 3 of
every 50 steps are watched, and the promise is that this adds at most 2 % to a step, in the mean over all steps.
"""

import argparse
import statistics
import time

import torch

from optbench import config
from optbench.config import RunConfig
from optbench.probes.noise_scale import NoiseScaleProbe
from optbench.training import build

CASES = {
    "LeNet-5, batch 128 in 4 parts": ["model=lenet5", "batch=128", "micro_batch=32"],
    "MLP 64-128-10, batch 512 in 4 parts": ["model=mlp", "batch=512", "micro_batch=128"],
    "WRN-10-1, batch 128 in 4 parts": [
        "model=wrn",
        "model.depth=10",
        "model.width=1",
        "batch=128",
        "micro_batch=32",
        "norm_batch=32",
    ],
}


def measure(words: list[str], turns: int) -> tuple[float, float]:
    """The processor seconds of a plain step, and the median of the relative increase for a watched one."""
    chosen = RunConfig.of(config.compose(["dataset=digits", "tracker=none", "optimizer=momentum", *words]))
    task = build.build_task(chosen, build.load_data(chosen))
    task.configure_optimizers()
    task.model.train()
    probe, plain, added = NoiseScaleProbe(), [], []
    unwatched = task.watch
    for turn in range(turns + 3):
        seconds = {}
        for watched in (False, True) if turn % 2 else (True, False):
            task.watch = probe.watch if watched else unwatched
            began = time.process_time()
            task.take_step()
            seconds[watched] = time.process_time() - began
        if turn >= 3:
            plain.append(seconds[False])
            added.append(seconds[True] / seconds[False] - 1)
    return statistics.median(plain), statistics.median(added)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = config.read_choice("probe", "noise_scale")
    share = options["window"] / options["every"]
    for name, words in CASES.items():
        step, added = measure(words, given.turns)
        print(
            f"{name:36} step {1e3 * step:7.2f} ms, watched {100 * added:+.2f} %, in the mean {100 * share * added:+.2f} %"
        )


if __name__ == "__main__":
    main()

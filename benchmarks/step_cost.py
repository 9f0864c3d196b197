"""Measure the cost of a step in optbench and in a hand-written loop with the same arithmetic, in one process.

    python benchmarks/step_cost.py [--output benchmarks/step_cost.md] [--device cpu|cuda] [--rounds 15]

The two loops alternate, segment by segment, so that a drift of the machine's speed affects both equally; the ratio is the
median over the rounds of each round's own ratio. optbench's side is complete: the task under Lightning's trainer, data,
history and progress. The hand-written side is the loop that a careful researcher would write for one run: data in memory, an
index and a normalization for each batch, forward, backward, the same torch optimizer, and the stored losses. It also compares
the assembly of augmented batches with a DataLoader, and measures the memory that micro-batches save.
"""

import argparse
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from optbench import config
from optbench.config import RunConfig
from optbench.data.raw import RawData, Split
from optbench.data.source import Augmentation, BatchSource
from optbench.data.spec import DataSpec
from optbench.provenance import environment
from optbench.store import RunDirectory
from optbench.system.terminal import RunDisplay
from optbench.training import build, run
from optbench.training.recorder import Audience
from optbench.training.task import StepTokens, Task


def synthetic(examples: int, shape: tuple[int, int, int]) -> RawData:
    """Random images, which cost as much as real ones."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        return Split(images, torch.randint(0, 10, (count,), generator=generator))

    return RawData(
        split(examples), split(64), split(64), DataSpec("image", shape, 10), (0.5,) * shape[0], (0.25,) * shape[0]
    )


class StopWatch(pl.Callback):
    """Seconds from the first step to the last, including all work between them."""

    seconds: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *arguments: Any) -> None:
        assert isinstance(pl_module, Task)
        # Only at the first call: the last evaluation comes after it, and Lightning calls this again.
        if self.seconds is None and pl_module.step >= pl_module.recipe.horizon.steps:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.began


def optbench_segment(settings: list[str], raw: RawData, steps: int, device: str) -> float:
    """Seconds of ``steps`` steps of a run."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    chosen = config.compose(
        [
            *settings,
            f"budget.steps={steps}",
            f"trainer.accelerator={accelerator}",
            "eval_every=100%",
            "evaluate_train=64",
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.at(folder, "run")
        directory.create(chosen)
        read = RunConfig.of(chosen)
        task = build.build_task(read, raw)
        # The display is rendered even without a terminal.
        display = RunDisplay(Console(file=io.StringIO(), force_terminal=True, width=120), steps)
        watch = StopWatch()
        recorder = build.build_recorder(read, task, directory, Audience(display.row))
        trainer = build.build_trainer(read, [watch, recorder, run._Progress(display, recorder)])
        with display:
            trainer.fit(task, train_dataloaders=StepTokens(task))
    assert watch.seconds is not None
    return watch.seconds


def bare_segment(settings: list[str], raw: RawData, steps: int, device: str) -> float:
    """Seconds of ``steps`` steps of a hand-written loop."""
    chosen = config.compose(settings)
    model = build.build_model(RunConfig.of(chosen), raw).to(device).train()
    batch, options = chosen["batch"], chosen["optimizer"]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options["learning_rate"], momentum=options["momentum"], fused=True
    )
    images, labels = raw.train.inputs.to(device), raw.train.targets.to(device)
    scale = 1 / (255 * torch.tensor(raw.std)).view(1, -1, 1, 1).to(device)
    shift = -(torch.tensor(raw.mean) / torch.tensor(raw.std)).view(1, -1, 1, 1).to(device)
    order = torch.randperm(len(images)).to(device)
    losses: list[Tensor] = []
    began = time.perf_counter()
    position = 0
    for _ in range(steps):
        if position + batch > len(images):
            order, position = torch.randperm(len(images)).to(device), 0
        index = order[position : position + batch]
        position += batch
        inputs = images.index_select(0, index).float().mul_(scale).add_(shift)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels.index_select(0, index))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def bare_quadratic_segment(settings: list[str], raw: RawData, steps: int, device: str) -> float:
    """Seconds of ``steps`` steps of a hand-written loop on a quadratic problem with noise of covariance h."""
    chosen = config.compose(settings)
    roots = raw.spec.problem.roots.float().to(device)
    weights = torch.nn.Parameter(torch.ones_like(roots))
    options = chosen["optimizer"]
    optimizer = torch.optim.SGD([weights], lr=options["learning_rate"], momentum=options["momentum"], fused=True)
    losses: list[Tensor] = []
    began = time.perf_counter()
    for _ in range(steps):
        noise = torch.randn(chosen["batch"], len(roots), device=device)
        optimizer.zero_grad()
        loss = 0.5 * (roots * weights - noise).square().sum(1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


Segment = Callable[[list[str], RawData, int, str], float]


def compare(
    settings: list[str], raw: RawData, steps: int, rounds: int, device: str, by_hand: Segment = bare_segment
) -> tuple[float, float, float]:
    """Median milliseconds per step of the loop ``by_hand`` and of optbench, and the median of the rounds' ratios."""
    for segment in (by_hand, optbench_segment):
        segment(settings, raw, max(steps // 10, 2), device)
    bare: list[float] = []
    ours: list[float] = []
    for turn in range(rounds):
        # The second loop finds warm caches, so that the order alternates as well.
        for segment, times in ((by_hand, bare), (optbench_segment, ours))[:: 1 if turn % 2 == 0 else -1]:
            times.append(segment(settings, raw, steps, device) / steps * 1e3)
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    return statistics.median(bare), statistics.median(ours), ratio


class PerItem(Dataset[tuple[Tensor, int]]):
    """The usual kind of data set: each image is cropped, mirrored and normalized separately."""

    def __init__(self, raw: RawData) -> None:
        self.images, self.labels = raw.train.inputs, raw.train.targets
        self.mean, self.std = torch.tensor(raw.mean).view(-1, 1, 1), torch.tensor(raw.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.images[index], (4, 4, 4, 4))
        top, left = (int(offset) for offset in torch.randint(0, 9, (2,)))
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image.float() / 255 - self.mean) / self.std, int(self.labels[index])


def assembly(rounds: int, device: str, batch: int = 128, batches: int = 40) -> list[tuple[str, float]]:
    """Milliseconds for each batch, cropped and mirrored: optbench's, and DataLoader's without and with workers."""
    raw = synthetic(10_000, (3, 32, 32))
    source = BatchSource(raw, 0, device, Augmentation(crop=4, flip=True))
    loaders = {workers: DataLoader(PerItem(raw), batch, shuffle=True, num_workers=workers) for workers in (0, 2)}

    def ours() -> None:
        for step in range(batches):
            source.batch(step, step * batch, batch)

    def loader(workers: int) -> Callable[[], None]:
        def take() -> None:
            for (inputs, _), _ in zip(loaders[workers], range(batches), strict=False):
                inputs.to(device)

        return take

    times: dict[str, list[float]] = {}

    def measure(contenders: dict[str, Callable[[], None]]) -> None:
        for _ in range(rounds):
            for name, take in contenders.items():
                began = time.perf_counter()
                take()
                if device == "cuda":
                    torch.cuda.synchronize()
                times.setdefault(name, []).append((time.perf_counter() - began) / batches * 1e3)

    measure({"optbench": ours, "DataLoader": loader(0)})
    # Measured separately: after each fork of the workers, writing to this process's memory copies it page by page.
    measure({"DataLoader, 2 workers": loader(2)})
    return [(name, statistics.median(values)) for name, values in times.items()]


def peak_memory(micro_batch: int | None) -> float:
    """Peak resident MiB of one whole run of one step at batch 4096."""
    # Not getrusage's ru_maxrss, which a process inherits from its parent.
    code = (
        "import re, sys; from optbench.__main__ import main; status = main(sys.argv[1:]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(status)"
    )
    with tempfile.TemporaryDirectory() as folder:
        words = ["model=wrn", "model.depth=16", "model.width=1", "optimizer=momentum"]
        words += [
            "batch=4096",
            f"micro_batch={'null' if micro_batch is None else micro_batch}",
            "dataset.train_limit=4096",
        ]
        words += ["budget.steps=1", "evaluate_train=256", "tracker=none", "progress=false", f"results_dir={folder}"]
        words += [f"data_dir={Path('data').resolve()}", "trainer.accelerator=cpu"]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1]) / 1024


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--skip-memory", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device, rounds = given.device, given.rounds
    name = torch.cuda.get_device_name() if device == "cuda" else f"{environment.processor()}, one thread"
    common = ["optimizer=momentum", "tracker=none", "ghost_batch_size=null"]
    lines = [
        f"Measured on {name}; torch {torch.__version__}, pytorch-lightning {version('pytorch-lightning')}, "
        f"Python {platform.python_version()}; medians of {rounds} interleaved rounds.",
        "",
        "| step | bare loop, ms | optbench, ms | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    print("\n".join(lines), flush=True)
    cases: list[tuple[str, list[str], tuple[int, int, int], int, int]] = [
        ("MLP 784-128-10, batch 128", ["model=mlp", "batch=128"], (1, 28, 28), 1000, rounds),
        ("ResNet-18, batch 64", ["model=resnet18", "batch=64"], (3, 32, 32), 100 if device == "cuda" else 3, rounds),
    ]
    for title, settings, shape, steps, count in cases:
        raw = synthetic(20_000, shape)
        bare, ours, ratio = compare([*common, *settings], raw, steps, count, device)
        lines.append(f"| {title} | {bare:.3f} | {ours:.3f} | {ratio:.3f} |")
        print(lines[-1], flush=True)
    for batch, steps in ((1, 2000), (64, 100)):
        settings = [*common, "model=quadratic", "dataset=quadratic", "dataset.dimension=10000", f"batch={batch}"]
        raw = build.load_data(RunConfig.of(config.compose(settings)))
        bare, ours, ratio = compare(settings, raw, steps, rounds, device, bare_quadratic_segment)
        lines.append(f"| quadratic of 10,000 weights, batch {batch} | {bare:.3f} | {ours:.3f} | {ratio:.3f} |")
        print(lines[-1], flush=True)
    table = assembly(rounds, device)
    lines += ["", "| batch of 128, 32 x 32, crop and flip | ms | times optbench |", "| --- | ---: | ---: |"]
    lines += [f"| {who} | {value:.3f} | {value / table[0][1]:.1f} |" for who, value in table]
    if not given.skip_memory:
        lines += ["", "| WideResNet 16-1, Fashion-MNIST, batch 4096, one step | peak memory, MiB |", "| --- | ---: |"]
        lines += [f"| micro_batch={size or 'null'} | {peak_memory(size):.0f} |" for size in (None, 1024, 256)]
    print("\n".join(lines[6:]))
    if given.output is not None:
        given.output.write_text("\n".join(["# The cost of a step", "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()

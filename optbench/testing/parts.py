"""Models, datasets and probes, certified by short runs with an optimizer, data and a model of the bench."""

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.config import Config, RunConfig, read_choice, training_examples, works_as
from optbench.data.raw import RawData
from optbench.errors import UserError
from optbench.models import layers
from optbench.testing.outcomes import Broken, Found, NotApplicable, require_close, require_equal
from optbench.testing.session import tensors_of
from optbench.testing.subject import Subject
from optbench.testing.trained import Ended, run_in, trained
from optbench.training import build

_COMMON = (
    "optimizer=adam", "batch=16", "ghost_batch_size=4", "budget.steps=4", "evaluate_train=16", "eval_every=100steps",
    "tracker=none", "progress=false", "log_every=1",
)  # fmt: skip
# Small pairs: data for a model that reads them, and a model for data of a kind.
_DATA = {
    "image": ("dataset=digits", "dataset.train_limit=200", "dataset.validation=16"),
    "tokens": ("dataset=text", "dataset.sequence_length=12", "dataset.train_limit=200"),
    "sequence": ("dataset=temporal_order_2", "dataset.length=20", "dataset.examples=200", "dataset.validation=16"),
    "noise": ("dataset=quadratic",),
    "problem": ("dataset=rosenbrock",),
}
_MODEL = {
    "image": ("model=mlp", "model.hidden=[16]"),
    "table": ("model=mlp", "model.hidden=[16]"),
    "sequence": ("model=rnn",),
    "tokens": ("model=gpt", "model.layers=1", "model.heads=2", "model.width=16"),
    "noise": ("model=quadratic",),
    "problem": ("model=problem",),
}
# A network in which there is much that a probe could change.
_MEASURED = ("model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", *_DATA["image"], "micro_batch=8")
_STEPS = 40


def words_for(subject: Subject) -> tuple[str, ...]:
    """The words of a short run with the subject, which itself is not among them; what its own words choose is left out.

    Raises UserError for a model of tables, of which none are shipped.
    """
    words: tuple[str, ...] = _COMMON
    if subject.group == "model":
        kinds = read_choice("model", subject.name)["info"]["accepts"]
        kind = next((kind for kind in _DATA if kind in kinds), None)
        if kind is None and not _chooses(subject, "dataset"):
            raise UserError(
                f"model={subject.name}: reads {' or '.join(kinds)}, and no such data are shipped; accepted: data beside it, "
                "such as dataset=arrays dataset.path=FILE"
            )
        words += _DATA.get(str(kind), ())
    elif subject.group == "dataset":
        info = read_choice("dataset", subject.name)["info"]
        words += ("model=autoencoder",) if info["target"] == "none" else _MODEL[info["kind"]]
    else:
        # Every second step, and those at which the options of its own file say so.
        where = f"probe.{subject.name}"
        words += (*_MEASURED, f"{where}.every=2", f"{where}.start=true", f"{where}.end=true")
    return tuple(word for word in words if not _chooses(subject, word.partition("=")[0].partition(".")[0]))


def _chooses(subject: Subject, group: str) -> bool:
    return any(word.partition("=")[0] == group for word in subject.words) and group != "probe"


# ---- models and datasets -----------------------------------------------------------------------------------------------------


def trains(config: Config) -> Found:
    """The loss is finite, falls within some steps, and every weight has a gradient and moves, or is named."""
    start: dict[str, Tensor] = {}

    def prepare(task: Any) -> None:
        start.update({name: weight.detach().clone() for name, weight in task.model.named_parameters()})

    losses: list[float] = []
    task = trained({**config, "budget": {**config["budget"], "steps": _STEPS}}, prepare, losses=losses)
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    if not last < first:
        raise Broken(f"the loss does not fall within {_STEPS} steps of Adam", first=first, last=last)
    named = dict(task.model.named_parameters())
    still = [name for name, weight in named.items() if weight.requires_grad and torch.equal(weight, start[name])]
    if len(still) == len(named):
        raise Broken("no weight moves")
    note = f"without an effect on the loss: {', '.join(still[:3])}{', ...' if len(still) > 3 else ''}" if still else ""
    return Found({"loss at first": first, "and at last": last}, note)


def dtypes(config: Config) -> Found:
    """The first loss in float64 is that in float32, to its rounding; integers and constants of one dtype stand in the way."""
    firsts = []
    for precision in ("fp64", "fp32"):
        losses: list[float] = []
        trained({**config, "precision": precision}, losses=losses)
        firsts.append(losses[0])
    found = {"loss": torch.tensor(firsts[1], dtype=torch.float64)}
    return require_close(found, {"loss": torch.tensor(firsts[0], dtype=torch.float64)}, "float32", rtol=1e-3, atol=1e-4)


def batch_norm_stated(config: Config) -> Found:
    """Its file says whether it has batch norm, which decides what fits a micro-batch before anything is built."""
    read = RunConfig.of(config)
    model = build.build_model(read, build.load_data(read))
    found, stated = bool(layers.batch_norms(model)), read.model.info.get("batch_norm")
    if found != stated:
        raise Broken(f"its file says batch_norm: {str(stated).lower()}, and it has {'one' if found else 'none'}")
    return Found()


def same_data(config: Config) -> Found:
    """Loaded twice, its splits are the same bit for bit."""
    read = RunConfig.of(config)
    one, other = (_numbers(build.load_data(read)) for _ in range(2))
    require_equal(other, one, "loaded a second time")
    return Found({name: len(tensor) for name, tensor in one.items() if name.endswith("inputs")})


def _numbers(raw: RawData) -> dict[str, Tensor]:
    """The splits as tensors; images that are read when they are needed are not among them."""
    splits = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    found = {f"{name} inputs": split.inputs for name, split in splits.items()}
    found |= {f"{name} targets": split.targets for name, split in splits.items()}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def declared_size(config: Config) -> Found:
    """Its file declares as many training examples as there are, where it declares some."""
    read = RunConfig.of(config)
    declared, found = training_examples(read), len(build.load_data(read).train)
    if declared is None:
        raise NotApplicable("its file declares no size")
    if declared != found:
        raise Broken(f"its file declares {declared} training examples, and there are {found}")
    return Found({"training examples": found})


def known_content(subject: Subject, config: Config) -> Found:
    """The content that it reads has the same fingerprint twice, unless its file says that it reads nothing."""
    dataset = config["dataset"]
    again = Subject(subject.group, subject.name, subject.words).configured(*words_for(subject))["dataset"]
    if dataset.get("fingerprint") != again.get("fingerprint"):
        raise Broken("its files have another fingerprint a second time")
    if dataset["info"]["download"] == "none":
        return Found(note="its file says that it reads no files")
    if dataset.get("fingerprint") is None and works_as(dataset) not in _official():
        raise Broken("no fingerprint of its files is in the run id")
    return Found({"fingerprint": dataset.get("fingerprint") or "the official hashes"})


def _official() -> Mapping[str, Any]:
    from optbench.data.sources import SOURCES

    return SOURCES


# ---- probes ------------------------------------------------------------------------------------------------------------------


class Measured:
    """Runs with the probe and without, each taken once: six steps, measured at the steps 0, 2, 4 and 6."""

    def __init__(self, subject: Subject, config: Config) -> None:
        self.name = subject.name
        steps = {"budget": {**config["budget"], "steps": 6}, "checkpoint_every": 2}
        self._config = {**config, **steps}
        self._kept: dict[tuple[bool, tuple[int, ...]], tuple[Ended, Any]] = {}

    def ended(self, probe: bool = True, kill_before: tuple[int, ...] = ()) -> tuple[Ended, Any]:
        """The end of the run, and the state of the generators outside of it."""
        key = probe, kill_before
        if key not in self._kept:
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(0)
            config = self._config if probe else {**self._config, "probe": {}}
            with tempfile.TemporaryDirectory(prefix="optbench-probe-") as folder:
                ended = run_in(Path(folder), config, kill_before)
            self._kept[key] = ended, (*np.random.get_state()[1:3], random.getstate())  # type: ignore[index]
        return self._kept[key]

    def rows(self, ended: Ended) -> list[dict[str, Any]]:
        """The rows of the probe in the history."""
        return [row for row in ended.rows if row["event"] == "probe"]


def changes_nothing(measured: Measured) -> Found:
    """The run with the probe ends bit for bit where the one without it ends, and no generator is elsewhere."""
    (found, generators), (expected, others) = measured.ended(), measured.ended(probe=False)
    require_equal(dict(tensors_of(found.state)), dict(tensors_of(expected.state)), "with the probe")
    training = [[row for row in ended.rows if row["event"] != "probe"] for ended in (found, expected)]
    if training[0] != training[1]:
        raise Broken("with the probe the run has another history")
    if not (np.array_equal(generators[0], others[0]) and generators[1:] == others[1:]):
        raise Broken("the probe draws from a generator of NumPy or Python, which are not its own")
    return Found()


def measures(measured: Measured) -> Found:
    """It measures at the steps where it is due, without a problem, and finds a number."""
    rows = measured.rows(measured.ended()[0])
    problems = [row["problem"] for row in rows if "problem" in row]
    if problems:
        raise Broken(f"step {rows[0]['step']}: {str(problems[0]).splitlines()[-1]}")
    if not {0, 2, 4, 6} <= {row["step"] for row in rows}:
        raise Broken(f"it is due at the steps 0, 2, 4 and 6, and has measured at {[row['step'] for row in rows]}")
    values = {name: value for name, value in rows[-1].items() if name.startswith(f"{measured.name}_")}
    if all(value is None for value in values.values()):
        raise Broken("it finds no number")
    return Found(values)


def survives_a_stop(measured: Measured) -> Found:
    """A run that is killed and continued measures the same at the same steps, and ends where an undisturbed one ends."""
    whole, (stopped, _) = measured.ended()[0], measured.ended(kill_before=(3, 5))
    require_equal(stopped.state["model"], whole.state["model"], "killed and continued")
    for one, other in zip(measured.rows(stopped), measured.rows(whole), strict=False):
        for name, value in other.items():
            if one.get(name) != value:
                raise Broken(
                    f"killed and continued, {name} of step {other['step']} is {one.get(name)}, and not {value}"
                )
    if len(measured.rows(stopped)) != len(measured.rows(whole)):
        raise Broken("killed and continued, it measures at other steps")
    return Found()

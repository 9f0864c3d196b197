"""Certify a choice: run every check of its kind, and write down what was found."""

import contextlib
import random
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optbench.config import Config, look_in, search_path
from optbench.errors import UserError, nearest
from optbench.provenance import environment
from optbench.testing import (
    costs,
    decay,
    evaluating,
    invariance,
    moving,
    parts,
    problem,
    references,
    resuming,
    schedules,
    weights,
)
from optbench.testing import subject as subjects
from optbench.testing.card import Card, Check, code_of
from optbench.testing.invariance import TwoRanks, Undisturbed
from optbench.testing.outcomes import Broken, Found, NotApplicable
from optbench.testing.session import Session
from optbench.testing.subject import Subject

_FOLDER = "--config-dir"
_RANKS = "subject"


class Bench:
    """A subject with what several checks share: the undisturbed run, and two ranks that train beside the other checks."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._two: TwoRanks | None = None

    def config(self, *words: str) -> Config:
        """The configuration of a short run with the subject and ``words``."""
        optimizer = self.subject.group == "optimizer"
        around = problem.words_for(self.subject.choice.rule) if optimizer else parts.words_for(self.subject)
        return self.subject.configured(*around, *words)

    @cached_property
    def undisturbed(self) -> Undisturbed:
        """The run with whole batches on one rank."""
        return Undisturbed(self.config("precision=fp64"))

    @cached_property
    def measured(self) -> parts.Measured:
        """Of a probe, the runs with it and without."""
        return parts.Measured(self.subject, self.config())

    @property
    def two(self) -> TwoRanks:
        """The two ranks, started when they are first asked for."""
        if self._two is None:
            self._two = TwoRanks({_RANKS: self.undisturbed.config})
        return self._two

    def close(self) -> None:
        """End what was started."""
        if self._two is not None:
            self._two.stop()


Run = Callable[[Bench], Found]


Entry = tuple[str, str, Run]


def _of_subject(check: Callable[[Subject], Found]) -> Run:
    return lambda bench: check(bench.subject)


def _of_config(check: Callable[[Config], Found], *words: str) -> Run:
    return lambda bench: check(bench.config(*words))


def _of_probe(check: Callable[[parts.Measured], Found]) -> Run:
    return lambda bench: check(bench.measured)


_MICRO_BATCH: Entry = ("micro-batch", "invariance", lambda bench: invariance.micro_batch(bench.undisturbed))
_TWO_RANKS: Entry = ("ranks", "invariance", lambda bench: invariance.ranks(bench.undisturbed, bench.two, _RANKS))
_KILL: Entry = ("kill", "resuming", _of_config(resuming.kill, *resuming.KILLED))

# The checks of an optimizer, in the order of the table: name, group, what runs it. Times are taken while no ranks are at work.
CHECKS: tuple[Entry, ...] = (
    ("repeat", "invariance", _of_subject(invariance.repeat)),
    _MICRO_BATCH,
    ("resume", "resuming", _of_subject(resuming.resume)),
    _KILL,
    ("own state", "resuming", _of_subject(resuming.own_state)),
    ("gradients", "resuming", _of_subject(resuming.gradients_kept)),
    ("dtype", "moving", _of_subject(moving.dtype)),
    ("precision", "moving", _of_subject(moving.precision)),
    ("device", "moving", _of_subject(moving.device)),
    ("learning rate", "schedules", _of_subject(schedules.learning_rate)),
    ("zero rate", "schedules", _of_subject(schedules.zero_rate)),
    ("momentum", "schedules", _of_subject(schedules.momentum)),
    ("frozen", "weights", _of_subject(weights.frozen)),
    ("unused", "weights", _of_subject(weights.unused)),
    ("tied", "weights", _of_subject(weights.tied)),
    ("twice", "weights", _of_subject(weights.twice)),
    ("order", "weights", _of_subject(weights.order)),
    ("groups", "weights", _of_subject(weights.groups)),
    ("group rates", "weights", _of_subject(weights.group_rates)),
    ("added group", "weights", _of_subject(weights.added_group)),
    ("weight decay", "decay", _of_subject(decay.weight_decay)),
    ("evaluations", "evaluating", _of_subject(evaluating.evaluations)),
    ("without closure", "evaluating", _of_subject(evaluating.without_closure)),
    ("reference", "references", _of_subject(references.reference)),
    ("memory", "costs", _of_subject(costs.memory)),
    _TWO_RANKS,
    ("time", "costs", _of_subject(costs.step_time)),
)
CHECKS_OF: Mapping[str, tuple[Entry, ...]] = {
    "optimizer": CHECKS,
    "model": (
        ("trains", "training", _of_config(parts.trains)),
        ("batch norm", "training", _of_config(parts.batch_norm_stated)),
        ("dtypes", "moving", _of_config(parts.dtypes)),
        _MICRO_BATCH,
        _KILL,
        _TWO_RANKS,
    ),
    "dataset": (
        ("same data", "data", _of_config(parts.same_data)),
        ("size", "data", _of_config(parts.declared_size)),
        ("fingerprint", "data", lambda bench: parts.known_content(bench.subject, bench.config())),
        ("trains", "training", _of_config(parts.trains)),
        _MICRO_BATCH,
        _KILL,
        _TWO_RANKS,
    ),
    "probe": (
        ("changes nothing", "probes", _of_probe(parts.changes_nothing)),
        ("measures", "probes", _of_probe(parts.measures)),
        ("stop", "probes", _of_probe(parts.survives_a_stop)),
    ),
}
_SLOW = ("kill", "ranks", "time")


def certify(
    *words: str,
    output: str | Path | None = None,
    quick: bool = False,
    checks: Sequence[str] | None = None,
    reference: str | None = None,
    told: Callable[[Check], object] = lambda check: None,
) -> Card:
    """Run the checks of what ``words`` name and return the card; see `optbench.testing.certify`.

    told: called with every check once it has ended.
    """
    with search_path.forgotten_afterwards(), _process_kept():
        look_in(word.partition("=")[2] for word in words if word.startswith(f"{_FOLDER}="))
        subject = subjects.of([word for word in words if not word.startswith(f"{_FOLDER}=")], reference)
        bench = Bench(subject)
        config, chosen = _prepared(bench, quick, checks)
        found = []
        try:
            if any(name == "ranks" for name, _, _ in chosen):
                # Beside the other checks: two processes take seconds to import what they need.
                with contextlib.suppress(Broken):
                    bench.two  # noqa: B018
            for name, group, run in chosen:
                check = _checked(bench, name, group, run)
                found.append(check)
                told(check)
        finally:
            bench.close()
        card = Card(
            subject=" ".join(words),
            group=subject.group,
            name=subject.name,
            code=code_of(subject.group, _choice(subject, config)),
            versions=environment.versions(),
            checks=tuple(found),
            complete=len(chosen) == len(CHECKS_OF[subject.group]),
        )
    if output is not None:
        card.write(output)
    return card


def _choice(subject: Subject, config: Config) -> Config:
    found: Config = config[subject.group][subject.name] if subject.group == "probe" else config[subject.group]
    return found


def _prepared(bench: Bench, quick: bool, checks: Sequence[str] | None) -> tuple[Config, list[Entry]]:
    """A configuration with the subject, which can be composed and built, and the checks to run.

    Raises UserError where it cannot, and for a check or an exception of a name that there is none of.
    """
    subject, known = bench.subject, CHECKS_OF[bench.subject.group]
    names = {name for name, _, _ in known} | {group for _, group, _ in known}
    for name in [*(checks or ()), *subject.exceptions]:
        if name not in names:
            raise UserError(f"checks={name}: no such check of a {subject.group}; {nearest(name, sorted(names))}")
    chosen = [check for check in known if checks is None or {check[0], check[1]} & set(checks)]
    chosen = [check for check in chosen if not (quick and check[0] in _SLOW)]
    config = bench.config()
    if subject.group == "optimizer":
        Session(subject)  # a wrong option is a mistake, and no broken promise
    return config, chosen


def _checked(bench: Bench, name: str, group: str, run: Run) -> Check:
    """Run one check; whatever it raises is its outcome."""
    begun = time.perf_counter()

    def ended(outcome: Any, reason: str, values: Mapping[str, Any]) -> Check:
        return Check(name, group, outcome, reason, dict(values), round(time.perf_counter() - begun, 3))

    exception = bench.subject.exceptions.get(name)
    if exception is not None:
        return ended("not applicable", f"stated: {exception}", {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run(bench)
    except NotApplicable as reason:
        return ended("not applicable", str(reason), reason.values)
    except Broken as reason:
        return ended("failed", str(reason), reason.values)
    except UserError as error:  # it says so itself, before any harm
        return ended("not applicable", f"refused: {error}", {})
    except Exception as error:  # code of somebody else may raise anything
        return ended("failed", _in_a_line(error), {})
    return ended("passed", found.note, found.values)


def _in_a_line(error: Exception) -> str:
    """What was raised, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''} ({Path(last.filename).name}, line {last.lineno})"


@contextlib.contextmanager
def _process_kept() -> Iterator[None]:
    """Give back the generators and the switches that runs change."""
    python, numpy = random.getstate(), np.random.get_state()
    cudnn, switches = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    kept = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.get_float32_matmul_precision()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, precision = kept
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(switches, warn_only=True)

"""A run that is stopped anywhere and continued from its checkpoint ends bit for bit where an undisturbed one ends."""

import random
import tempfile
from pathlib import Path

import numpy as np
import torch

from optbench.config import Config
from optbench.testing.outcomes import Broken, Found, difference, require_equal
from optbench.testing.session import Session, state_of, tensors_of
from optbench.testing.subject import Subject
from optbench.testing.trained import run_in

# The words of a run that `kill` kills: evaluations and checkpoints are due at different steps, and there is much to remember.
KILLED = ("checkpoint_every=2", "eval_every=3", "budget.steps=7", "schedule=plateau", "averaging=swa")


def resume(subject: Subject, dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)) -> Found:
    """The state dict after any number of steps, written, read and loaded into a fresh optimizer, continues bit for bit.

    Generators outside of torch, which no checkpoint holds, are elsewhere when it continues.
    """
    steps = 12
    for dtype in dtypes:
        whole = Session(subject, dtype=dtype).step(steps).weights()
        for stop in (1, 5, steps - 1):
            saved = Session(subject, dtype=dtype).step(stop).state()
            random.seed(stop)
            np.random.seed(stop)
            continued = Session(subject, dtype=dtype).load(saved).step(steps - stop).weights()
            what = f"stopped after step {stop} and continued to step {steps} in {str(dtype).removeprefix('torch.')}"
            require_equal(continued, whole, what)
    return Found()


def kill(config: Config) -> Found:
    """A run that is killed twice, and started again by the same command, has the summary, history and state of another one.

    config: of a run of seven steps or more, with a checkpoint at every second step.
    """
    with tempfile.TemporaryDirectory(prefix="optbench-kill-") as name:
        whole = run_in(Path(name) / "whole", config)
        # A step after the checkpoint of step 2, and at once after an evaluation and a checkpoint.
        killed = run_in(Path(name) / "killed", config, kill_before=(3, 6))
    if killed.resumed_at != [2, 6]:
        raise Broken(f"it was resumed at the steps {killed.resumed_at}, and not at 2 and 6")
    states = [dict(tensors_of(each.state["model"])) for each in (killed, whole)]
    require_equal(states[0], states[1], "killed at the steps 3 and 6 and started again")
    for name in ("summary", "rows"):
        if getattr(killed, name) != getattr(whole, name):
            raise Broken(f"killed at the steps 3 and 6 and started again: another {name.replace('rows', 'history')}")
    return Found()


def own_state(subject: Subject) -> Found:
    """No two tensors of the state share memory, and none shares it with a weight or a gradient, after one step and after two."""
    session = Session(subject)
    for _ in range(2):
        _require_own(session.step())
    return Found()


def _require_own(session: Session) -> None:
    named = dict(session.model.named_parameters())
    held = [(f"the weight {name}", weight.data) for name, weight in named.items()]
    held += [(f"the gradient of {name}", weight.grad) for name, weight in named.items() if weight.grad is not None]
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in named.items()}
    held += [
        (f"the state {name} of {names.get(parameter, 'a weight')}", tensor)
        for name, tensor, parameter in state_of(session.optimizer)
    ]
    last, end = "", 0
    for begin, size, name in sorted((tensor.data_ptr(), tensor.nbytes, name) for name, tensor in held):
        if size and begin < end:
            raise Broken(f"{last} and {name} share memory")
        if size:
            last, end = name, begin + size


def gradients_kept(subject: Subject) -> Found:
    """A step leaves the gradients as the closure has filled them."""
    session = Session(subject)
    filled: list[dict[str, torch.Tensor]] = []
    for number in range(1, 4):
        session.step(after=lambda: filled.append(session.gradients()))
        changed = difference(session.gradients(), filled[-1])
        if changed:
            raise Broken(f"step {number} changes the gradients that the closure has filled", difference=changed)
    return Found()

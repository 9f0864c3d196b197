"""What a schedule changes in the parameter groups takes effect at the next step."""

import torch

from optbench.testing.outcomes import Broken, Found, NotApplicable, Numbers, difference
from optbench.testing.session import Session
from optbench.testing.subject import Subject

# A change of the learning rate by half has to change the next step by more than rounding.
_LEAST = 1e-6


def learning_rate(subject: Subject) -> Found:
    """A learning rate that is halved in the groups after some steps changes the next one, at the second step and later on."""
    shares = {}
    for before in (1, 4):
        steps = []
        for factor in (1.0, 0.5):
            session = Session(subject).step(before)
            session.scale_rate(factor)
            start = session.weights()
            steps.append(_moved(session.step().weights(), start))
        whole, half = steps
        if _norm(_moved(half, whole)) <= _LEAST * _norm(whole):
            raise Broken(f"the learning rate halved after step {before} changes nothing at step {before + 1}")
        shares[f"step {before + 1}"] = _norm(half) / _norm(whole)
    return Found({"of the step at half the rate": shares["step 5"]})


def zero_rate(subject: Subject) -> Found:
    """A learning rate of 0, from the first step on or later, moves no weight (without weight decay), and training goes on."""
    for before in (0, 3):
        session = Session(subject, **subject.without_decay).step(before)
        rates = [group["lr"] for group in session.optimizer.param_groups]
        session.scale_rate(0.0)
        start = session.weights()
        session.step(2)
        moved = difference(session.weights(), start)
        if moved:
            raise Broken(
                f"a learning rate of 0 after {before} steps moves the weights by up to {moved:.2g}", moved=moved
            )
        for group, rate in zip(session.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        end = session.step(2).weights()
        if not all(torch.isfinite(weight).all() for weight in end.values()):
            raise Broken("after two steps at a learning rate of 0 the weights are not finite")
        if not difference(end, start):
            raise Broken("after two steps at a learning rate of 0 no weight moves again")
    return Found()


def momentum(subject: Subject) -> Found:
    """A momentum, or the first of the betas, that is changed in the groups takes effect within two steps."""
    ends = []
    for change in (False, True):
        session = Session(subject).step(3)
        groups = session.optimizer.param_groups
        if not any(group.get("momentum") or group.get("betas", (0,))[0] for group in groups):
            raise NotApplicable("its groups hold no momentum and no betas but 0")
        for group in groups if change else ():
            if group.get("momentum"):
                group["momentum"] *= 0.5
            elif "betas" in group:
                group["betas"] = (0.5 * group["betas"][0], *group["betas"][1:])
        # The velocity that a method keeps may be that of before at the next step.
        ends.append(session.step(2).weights())
    if not difference(*ends):
        raise Broken("another momentum in the groups changes nothing")
    return Found()


def _moved(end: Numbers, start: Numbers) -> dict[str, torch.Tensor]:
    return {name: weight - start[name] for name, weight in end.items()}


def _norm(numbers: Numbers) -> float:
    return float(torch.cat([tensor.flatten() for tensor in numbers.values()]).norm())

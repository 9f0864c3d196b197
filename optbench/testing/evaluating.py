"""The number of closure calls in a step, and steps without a closure."""

import inspect

from optbench.testing.outcomes import Broken, Found, NotApplicable, require_equal
from optbench.testing.session import Session
from optbench.testing.subject import Subject


def evaluations(subject: Subject) -> Found:
    """The closure is called as often as stated: once where the choice says so or ``step`` does without one, or several times.

    Every call is one evaluation of the loss and its gradient, which is what a comparison at equal cost counts.
    """
    stated = "several" if _evaluate_again(subject) else subject.choice.stated("evaluations")
    session = Session(subject)
    counts: list[int] = []
    for _ in range(6):
        calls: list[None] = []
        session.step(after=lambda calls=calls: calls.append(None))  # type: ignore[misc]
        counts.append(len(calls))
    values = {"evaluations a step": sum(counts) / len(counts)}
    if min(counts) == 0:
        raise Broken("a step does not evaluate its closure", **values)
    once = stated == "one" if stated is not None else does_without(session.optimizer)
    if once and max(counts) > 1:
        why = "its file says evaluations: one" if stated is not None else "it takes steps without a closure, too"
        raise Broken(f"a step calls its closure up to {max(counts)} times, and {why}", **values)
    return Found(values)


def does_without(optimizer: object) -> bool:
    """True if ``step`` can be called without a closure."""
    parameters = list(inspect.signature(type(optimizer).step).parameters.values())[1:]  # type: ignore[attr-defined]
    return all(
        each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    )


def _evaluate_again(subject: Subject) -> bool:
    """True if a transform around it evaluates the closure again."""
    return any(each.info.get("evaluations") == "several" for each in subject.transforms)


def without_closure(subject: Subject) -> Found:
    """If ``step`` works without a closure, a step on present gradients is the same step."""
    if _evaluate_again(subject) or not does_without(Session(subject).optimizer):
        raise NotApplicable("its steps need a closure")
    start = Session(subject)
    gradients = {name: weight.sign() * weight.abs().sqrt() for name, weight in start.weights().items()}
    ends = []
    for closure in (True, False):
        session = Session(subject)
        for _ in range(3):
            if closure:
                session.step_with(gradients)
                continue
            for name, weight in session.model.named_parameters():
                weight.grad = gradients[name].clone()
            session.optimizer.step()
        ends.append(session.weights())
    require_equal(ends[1], ends[0], "steps without a closure, on the same gradients")
    return Found()

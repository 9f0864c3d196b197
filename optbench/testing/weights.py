"""Which weights move and by what: frozen, unused, tied and twice-used ones, parameter groups, and the order they are given in."""

from collections.abc import Callable

import torch
from torch import nn

from optbench.errors import UserError
from optbench.testing import problem
from optbench.testing.outcomes import Broken, Found, NotApplicable, Numbers, difference, require_close, require_equal
from optbench.testing.session import Session, needs_objective
from optbench.testing.subject import Groups, Subject, one_each, reversed_order

_FROZEN = ("hidden.weight", "head.bias")


def _nudged(subject: Subject, steps: int, make_model: Callable[[], nn.Module] = problem.Perceptron) -> Numbers:
    return Session(subject, make_model, nudged=True).step(steps).weights()


def frozen(subject: Subject) -> Found:
    """Weights that are frozen after some steps stay as they are, decay and momentum included, and the others know no order."""

    def end(reverse: bool, nudged: bool = False) -> Numbers:
        session = Session(subject, arrange=reversed_order if reverse else None, nudged=nudged).step(3)
        session.freeze(*_FROZEN)
        before = session.weights()
        after = session.step(3).weights()
        for name in _FROZEN:
            if not torch.equal(after[name], before[name]):
                moved = difference({name: after[name]}, {name: before[name]})
                raise Broken(f"{name}, which is frozen, moves by up to {moved:.2g}", moved=moved)
        if not difference(after, before):
            raise Broken("no weight moves once others are frozen")
        return after

    what = "with some weights frozen, the others given in the opposite order"
    expected = end(False)
    try:
        found = end(True)
    except UserError:  # it takes no other order
        return Found()
    return _close_or_ordered(subject, found, expected, what, lambda: (end(False, nudged=True), expected))


def _close_or_ordered(
    subject: Subject, found: Numbers, expected: Numbers, what: str, nudged: Callable[[], tuple[Numbers, Numbers]]
) -> Found:
    """`require_close`, unless the order of the weights matters anyway, as where a method draws for one after the other."""
    try:
        return require_close(found, expected, what, nudged)
    except Broken:
        try:
            order(subject)
        except Broken:
            return Found(note="the others are not compared, as the order of the weights matters (see order)")
        raise


def unused(subject: Subject) -> Found:
    """Weights that no pass goes through, whose gradient is None, stay as they are, and the others move as without them."""
    session = Session(subject, problem.Unused)
    before = session.weights()
    after = session.step(4).weights()
    idle = [name for name in after if name.startswith("idle.")]
    for name in idle:
        if not torch.equal(after[name], before[name]):
            moved = difference({name: after[name]}, {name: before[name]})
            raise Broken(f"{name}, which has no gradient, moves by up to {moved:.2g}", moved=moved)
    without = Session(subject).step(4).weights()
    used = {name: weight for name, weight in after.items() if name not in idle}
    what = "beside weights without a gradient"
    return _close_or_ordered(subject, used, without, what, lambda: (_nudged(subject, 4), without))


def tied(subject: Subject) -> Found:
    """A weight that two layers share stays shared, and moves as that of one layer that is used twice."""
    session = Session(subject, problem.Tied).step(5)
    model = session.model
    assert isinstance(model, problem.Tied)
    if model.again.weight is not model.hidden.weight:
        raise Broken("two layers that share a weight have one each after a step")
    return _as_twice(subject, session, "a weight that two layers share")


def twice(subject: Subject) -> Found:
    """A layer that is used twice in a pass moves by the sum of its gradients, as a weight that no layer holds."""
    return _as_twice(subject, Session(subject, problem.ByHand).step(5), "a weight without a layer, used twice")


def _as_twice(subject: Subject, session: Session, what: str) -> Found:
    found, expected = session.weights(), Session(subject, problem.Twice).step(5).weights()
    if not all(torch.isfinite(weight).all() for weight in found.values()):
        raise Broken(f"{what} is not finite")
    if needs_objective(subject):
        return Found(note="it may know layers, so that their weights need not move alike")
    what = f"{what}, and a layer that is used twice"
    return require_close(found, expected, what, lambda: (_nudged(subject, 5, problem.Twice), expected))


def order(subject: Subject) -> Found:
    """The result does not depend on the order in which the weights are given."""
    found = Session(subject, arrange=reversed_order).step(6).weights()
    expected = Session(subject).step(6).weights()
    what = "weights given in the opposite order"
    return require_close(found, expected, what, lambda: (_nudged(subject, 6), expected))


def groups(subject: Subject) -> Found:
    """Groups with equal options give what one group gives."""
    found = Session(subject, arrange=one_each)
    if len(found.optimizer.param_groups) < 2:
        raise NotApplicable("it makes parameter groups of its own")
    end, expected = found.step(6).weights(), Session(subject).step(6).weights()
    what = "a group for each weight, with equal options"
    return require_close(end, expected, what, lambda: (_nudged(subject, 6), expected))


def group_rates(subject: Subject) -> Found:
    """In a group whose learning rate is 0, the first or the last, no weight moves without weight decay, and in others they do."""
    for still in (0, -1):
        session = Session(subject, arrange=one_each, **subject.without_decay)
        if len(session.optimizer.param_groups) < 2:
            raise NotApplicable("it makes parameter groups of its own")
        session.optimizer.param_groups[still]["lr"] = 0.0
        names = {weight: name for name, weight in session.model.named_parameters()}
        held = {names[weight] for weight in session.optimizer.param_groups[still]["params"]}
        before = session.weights()
        after = session.step(3).weights()
        for name, weight in after.items():
            moves = not torch.equal(weight, before[name])
            if moves and name in held:
                raise Broken(f"{name} moves, though the learning rate of its group is 0")
            if not moves and name not in held:
                raise Broken(f"{name} does not move while the learning rate of another group is 0")
    return Found()


def added_group(subject: Subject) -> Found:
    """A group that is added by ``add_param_group`` after some steps moves, too."""
    later: Groups = []

    def all_but_the_last(given: Groups) -> Groups:
        *first, last = one_each(given)
        later.append(last)
        return first

    session = Session(subject, arrange=all_but_the_last)
    if not later:
        raise NotApplicable("it makes parameter groups of its own")
    names = {weight: name for name, weight in session.model.named_parameters()}
    (added,) = later[0]["params"]
    before = session.step(2).weights()
    require_equal({"": session.weights()[names[added]]}, {"": before[names[added]]}, "a weight of no group")
    session.optimizer.add_param_group(later[0])
    group = session.optimizer.param_groups[-1]
    group.setdefault("initial_lr", group["lr"])
    # An odd number: steps of one length, there and back, would end where they began.
    after = session.step(3).weights()[names[added]]
    if torch.equal(after, before[names[added]]) or not torch.isfinite(after).all():
        raise Broken("the weight of a group that is added after two steps does not move")
    return Found()

"""Tell the kind of weight decay of a method from what it changes in a step, and compare it with the stated kind."""

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor

from optbench.testing.outcomes import Broken, Found, NotApplicable, excess
from optbench.testing.session import Session, needs_objective
from optbench.testing.subject import Subject

NONE = "none"
COUPLED = "coupled"
BOTH = "coupled, and the same decoupled"
TIMES_RATE = "decoupled, times the learning rate"
AFTER = "decoupled, times the learning rate, after the step"
PLAIN = "decoupled, not times the learning rate"
OWN_RATE = "decoupled, times a rate of its own"
OWN = "its own"
# With none at all, some methods make other groups.
_DECAY, _NEXT_TO_NONE = 0.1, 1e-30
# Factors on the first weights, one a step: at the same place again and again, a running mean of λθ would be λθ.
_PLACES = (1.0, -0.6, 1.5, 0.7, -1.2, 0.4)
_MATCHES = {
    "coupled": {COUPLED, BOTH},
    "decoupled": {TIMES_RATE, BOTH, AFTER, OWN_RATE},
    "decoupled, not times the learning rate": {PLAIN},
}
# The share of the effect of the decay that may be something else, and the excess below which there is none.
_SHARE, _ROUNDING = 1e-3, 1e-5
Path = list[dict[str, Tensor]]


def weight_decay(subject: Subject) -> Found:
    """Tell the kind of weight decay from steps with given gradients at given places, whatever the steps before have done.

    With the weights θ, the decay λ and the learning rate α, a step u(g) without decay becomes: coupled u(g + λθ); decoupled
    u(g) - αλθ; or - λθ, not times α; or after the step (1 - αλ)(θ + u(g)). Where the choice or the groups state one, it is that.
    """
    if not subject.has("weight_decay"):
        raise NotApplicable("it has no weight decay")
    if needs_objective(subject):
        raise NotApplicable("its gradients cannot be given")
    if "weight_decay_mode" in subject.choice.options:
        kinds = {}
        for mode in ("coupled", "decoupled"):
            kinds[mode], biases = _kind(subject, weight_decay_mode=mode)
            _require(kinds[mode], mode, f"weight_decay_mode={mode}")
        _require_biases(subject, biases)
        return Found({f"weight_decay_mode={mode}": kind for mode, kind in kinds.items()})
    kind, biases = _kind(subject)
    stated, where = _stated(subject)
    values = {"kind": kind, "biases": "decayed" if biases else "not decayed"}
    if kind == NONE:
        raise Broken("weight_decay changes nothing", **values)
    if stated is not None:
        _require(kind, stated, where)
    _require_biases(subject, biases)
    return Found(values)


def _require(kind: str, stated: str, where: str) -> None:
    if kind not in _MATCHES.get(stated, {stated}):
        raise Broken(f"{where} states {stated}, and it is {kind}", kind=kind)


def _require_biases(subject: Subject, decayed: bool) -> None:
    if decayed and subject.choice.options.get("decay_norm_and_bias") is False:
        raise Broken("decay_norm_and_bias=false, and biases are decayed")


def _stated(subject: Subject) -> tuple[str | None, str]:
    """The kind that the choice's file states, or else the flags that torch and pytorch-optimizer have in their groups."""
    stated = subject.choice.info.get("weight_decay")
    if stated is not None:
        return str(stated), "its file"
    group = Session(subject).optimizer.param_groups[0]
    for flag in ("decoupled_weight_decay", "weight_decouple"):
        if isinstance(group.get(flag), bool):
            if not group[flag]:
                return "coupled", f"{flag}=False"
            if group.get("fixed_decay"):
                return "decoupled, not times the learning rate", f"{flag}=True, fixed_decay=True"
            return "decoupled", f"{flag}=True"
    return None, ""


def _kind(subject: Subject, **options: Any) -> tuple[str, bool]:
    """The kind of weight decay of matrices, and whether biases are decayed, too."""
    start = Session(subject, **options).weights()
    matrices = {name for name, weight in start.items() if weight.ndim > 1}

    def path(decay: float, added: float = 0.0) -> tuple[Path, float]:
        return _steps(subject, start, lambda name: added if name in matrices else 0.0, weight_decay=decay, **options)

    (without, rate), (decayed, _) = path(_NEXT_TO_NONE), path(_DECAY)
    coupled = path(_NEXT_TO_NONE, _DECAY)[0]

    def is_close(expected: Callable[[Tensor, Tensor], Tensor]) -> bool:
        """True if every matrix of the decayed steps is ``expected(θ, end of the step without decay)``."""
        return all(
            _is_close(end[name], expected(place * start[name], base[name]), base[name])
            for place, end, base in zip(_PLACES, decayed, without, strict=True)
            for name in matrices
        )

    biases = _decays_biases(subject, start, start.keys() - matrices, **options)
    if is_close(lambda weight, base: base):
        return NONE, biases
    is_coupled = all(
        _is_close(end[name], other[name], base[name])
        for end, other, base in zip(decayed, coupled, without, strict=True)
        for name in matrices
    )
    decoupled = is_close(lambda weight, base: base - rate * _DECAY * weight)
    if is_coupled:
        return (BOTH if decoupled else COUPLED), biases
    if decoupled:
        return TIMES_RATE, biases
    if is_close(lambda weight, base: base * (1 - rate * _DECAY)):
        return AFTER, biases
    if is_close(lambda weight, base: base - _DECAY * weight):
        return PLAIN, biases
    if all(
        _is_close(end[name], base[name] - _rate(end, base, start) * start[name], base[name])
        for end, base in zip(decayed, without, strict=True)
        for name in matrices
    ):
        return OWN_RATE, biases
    return OWN, biases


def _decays_biases(subject: Subject, start: dict[str, Tensor], biases: Set[str], **options: Any) -> bool:
    """True if decay moves biases whose gradients are zero.

    With gradients, a method that has one step size for all weights would move them by it, whose own decay has changed it.
    """
    decayed, without = (
        _steps(subject, start, lambda name: 0.0, still=biases, weight_decay=decay, **options)[0]
        for decay in (_DECAY, _NEXT_TO_NONE)
    )
    return any(
        excess({name: end[name]}, {name: base[name]}) > _ROUNDING
        for end, base in zip(decayed, without, strict=True)
        for name in biases
    )


def _rate(end: dict[str, Tensor], base: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """The factor on the weights that explains most of what the decay has changed in a step."""
    largest = max((name for name in start if start[name].ndim > 1), key=lambda name: start[name].numel())
    weight = start[largest]
    return float(((base[largest] - end[largest]) * weight).sum() / weight.square().sum())


def _is_close(end: Tensor, expected: Tensor, base: Tensor) -> bool:
    """True if ``end`` is ``expected``, in proportion to what the decay changes; ``base`` is the end without decay."""
    effect = max(float((expected - base).abs().max()), float((end - base).abs().max()))
    largest = float((end - expected).abs().max())
    return largest <= _SHARE * effect or excess({"": end}, {"": expected}) <= _ROUNDING


def _steps(
    subject: Subject,
    start: dict[str, Tensor],
    added: Callable[[str], float],
    still: Set[str] = frozenset(),
    **options: Any,
) -> tuple[Path, float]:
    """The weights after each of a few steps, at given places with gradients + ``added(name)`` · θ, and the learning rate.

    still: the names of weights whose gradients are zero.
    """
    session = Session(subject, **options)
    ends = []
    for step, place in enumerate(_PLACES):
        here = {name: place * weight for name, weight in start.items()}
        gradients = {
            name: (weight.flip(0) * (1 + step)).sin() + added(name) * here[name] for name, weight in start.items()
        }
        gradients |= {name: torch.zeros_like(start[name]) for name in still}
        session.move_to(here)
        session.step_with(gradients)
        ends.append(session.weights())
    return ends, float(session.optimizer.param_groups[0]["lr"])

"""The rules that scale the learning rate from ``base_batch``, where it was tuned, to ``batch`` (no torch).

With kappa = batch / base_batch the base learning rate is multiplied by

    none      1
    linear    kappa            Goyal et al. 2017 (arXiv 1706.02677): SGD, while kappa is not too large
    sqrt      sqrt(kappa)      Krizhevsky 2014 (arXiv 1404.5997), Hoffer et al. 2017 (arXiv 1705.08741): keeps the
                               variance of an SGD step; Malladi et al. 2022 (arXiv 2205.10287): Adam and RMSprop
    power     kappa^exponent
    auto      one of the first three: the one that the optimizer's file states as ``info.scaling``

The form of the step decides which rule fits. At equal epochs there are kappa times fewer steps, and each should go kappa
times as far along the mean gradient (and with kappa times the variance):

    the step is proportional to the gradient                    linear    SGD and its variants; K-FAC, whose matrix is that of the
                                                                          data and does not depend on the batch
    the step does not change when the gradient is multiplied    sqrt      Adam and its variants, sign methods, LARS, LAMB, Muon:
    by a number                                                           where noise dominates, the gradient's own size
                                                                          falls as 1 / sqrt(kappa), which the step divides out
    the method chooses the length of its steps, and the         none      Newton methods and line searches; Entropy-SGD, whose
    learning rate is a factor of it near 1                                outer step is a relaxation, stable below 2 only
"""

import math
from collections.abc import Mapping

from optbench.config.run_config import Choice
from optbench.errors import UserError

# For the files that state no rule of their own.
RULE_OF_FAMILY = {"sgd": "linear", "adaptive": "sqrt", "second_order": "none"}


def applied_rule(scaling: Choice, optimizer: Choice) -> str:
    """The rule by which ``scaling``, a choice of that group, scales the learning rate of ``optimizer``.

    auto takes the optimizer's ``info.scaling``: a rule, or one for each name if the choice stands for optimizers of many
    names; a file without it has the rule of its ``info.family``.

    Raises UserError if auto has no rule.
    """
    if scaling.rule != "auto":
        return scaling.rule
    info = optimizer.info
    stated = info.get("scaling", RULE_OF_FAMILY.get(info.get("family", "")))
    if isinstance(stated, Mapping):
        stated = stated.get(optimizer.name.lower())
    if stated not in RULE_OF_FAMILY.values():
        raise UserError(
            f"scaling=auto: not known for optimizer.name={optimizer.name}, of which no rule is stated; "
            "accepted: scaling=none, linear, sqrt or power"
        )
    return str(stated)


def rule_beside_family(scaling: Choice, optimizer: Choice) -> str | None:
    """The rule of auto if it differs from the rule of the optimizer's family, else None.

    In earlier versions auto was always the rule of the family, and run ids do not name it. If it differs, they must.
    """
    if scaling.rule != "auto":
        return None
    rule = applied_rule(scaling, optimizer)
    return None if rule == RULE_OF_FAMILY.get(optimizer.info.get("family", "")) else rule


def learning_rate(scaling: Choice, base: float, batch: int, base_batch: int, optimizer: Choice) -> tuple[float, str]:
    """The learning rate at ``batch`` and the rule that was applied.

    scaling: a choice of that group, whose option ``exponent`` belongs to power. base: the learning rate at ``base_batch``.
    optimizer: the choice that decides for auto.

    Raises UserError for an unknown rule, for auto if the optimizer has none, and for a learning rate beyond the range of
    floats.
    """
    rule = applied_rule(scaling, optimizer)
    try:
        rate = _scaled(rule, scaling, base, batch / base_batch)
    except OverflowError:
        rate = math.inf
    if not math.isfinite(rate) or (rate == 0) != (base == 0):
        raise UserError(
            f"scaling={scaling.name}: takes optimizer.learning_rate={base} from base_batch={base_batch} to batch={batch} "
            "beyond what a float can hold; accepted: batches closer to each other, or scaling=none"
        )
    return rate, rule


def _scaled(rule: str, scaling: Choice, base: float, kappa: float) -> float:
    if rule == "none":
        return base
    if rule == "linear":
        return base * kappa
    if rule == "sqrt":
        return base * math.sqrt(kappa)
    if rule == "power":
        return base * float(kappa ** scaling.options["exponent"])
    raise UserError(f"scaling={rule}: no such rule; accepted: none, linear, sqrt, power, auto")

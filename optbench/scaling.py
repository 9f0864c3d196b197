"""The rule that turns the base learning rate, right at ``base_batch``, into the one at ``batch`` (no torch).

With kappa = batch / base_batch the base learning rate is multiplied by

    none      1
    linear    kappa            Goyal et al. 2017 (arXiv 1706.02677): SGD, while kappa is not too large
    sqrt      sqrt(kappa)      Krizhevsky 2014 (arXiv 1404.5997), Hoffer et al. 2017 (arXiv 1705.08741): keeps the
                               variance of an SGD step; Malladi et al. 2022 (arXiv 2205.10287): Adam and RMSprop
    power     kappa^exponent
    auto      by the optimizer's family: sgd linear, adaptive sqrt, second_order none
"""

import math
from collections.abc import Mapping
from typing import Any

from optbench.errors import UserError

RULE_OF_FAMILY = {"sgd": "linear", "adaptive": "sqrt", "second_order": "none"}


def learning_rate(
    options: Mapping[str, Any], base: float, batch: int, base_batch: int, family: str
) -> tuple[float, str]:
    """The learning rate at ``batch`` and the rule that was applied.

    options: a composed choice of the group `scaling`: its ``name`` is the rule, and ``exponent`` belongs to power.
    base: the learning rate at ``base_batch``. family: of the optimizer, which decides for auto.

    Raises UserError for a rule that is not known, or for auto with a family that it has no rule for.
    """
    rule = options["name"]
    if rule == "auto":
        if family not in RULE_OF_FAMILY:
            raise UserError(
                f"scaling=auto: has no rule for optimizers of family {family}; accepted: none, linear, sqrt, power"
            )
        rule = RULE_OF_FAMILY[family]
    kappa = batch / base_batch
    if rule == "none":
        return base, rule
    if rule == "linear":
        return base * kappa, rule
    if rule == "sqrt":
        return base * math.sqrt(kappa), rule
    if rule == "power":
        return base * kappa ** options["exponent"], rule
    raise UserError(f"scaling={rule}: no such rule; accepted: none, linear, sqrt, power, auto")

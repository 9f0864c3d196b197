"""The conformance suite: what the bench promises of its own choices, checked for anybody's.

    card          what was found, one line a check; as JSON beside the results
    subject       what is certified: a choice, the dotted path of a class, or a name of the pytorch-optimizer package
    problem       the small problems on which it is certified
    trained       runs of the bench, in memory, and what tests read of them
    invariance    micro-batches, ranks, the same run twice
    resuming      state dicts and killed runs
    moving        other dtypes and devices
    schedules     learning rates and momenta that change
    weights       frozen, unused, tied and twice-used weights, parameter groups, orders
    decay         which kind of weight decay it is
    evaluating    closure calls, and steps without a closure
    costs         memory a parameter, time a step
    references    agreement with a formula or another implementation
    parts         models, datasets and probes
    certifying    runs them all

`certify("optimizer=mine").check()` is a test of a plug-in in one line. Importing this package imports no torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optbench.testing.card import Card, Check

__all__ = ["Card", "Check", "certify"]


def certify(
    *words: str,
    output: str | Path | None = None,
    quick: bool = False,
    checks: Sequence[str] | None = None,
    reference: str | None = None,
) -> Card:
    """Check what the bench promises of a choice, and return what was found.

        optbench.testing.certify("optimizer=mine").check()
        optbench.testing.certify("optimizer=adam", "optimizer.weight_decay=0.1")
        optbench.testing.certify("torch.optim.RAdam")              # any class of the torch.optim.Optimizer kind
        optbench.testing.certify("adan")                           # a name of the pytorch-optimizer package
        optbench.testing.certify("model=mine"), certify("dataset=mine"), certify("probe=mine")

    words: the choice, and its options as on the command line; '--config-dir=DIR' offers the choices in a folder.
    output: a folder for the card as JSON, or None. quick: leave out what starts processes or writes runs (ranks, kill), and
    what takes long to time. checks: the names of the checks, or of their groups, to be run; None for all.
    reference: the dotted path of an optimizer with which the steps must agree, such as "torch.optim.Adam".

    Raises UserError for what cannot be chosen or built, before any check.
    """
    # Imported here because it needs torch, which takes seconds to import.
    from optbench.testing.certifying import certify as run

    given: dict[str, Any] = {"output": output, "quick": quick, "checks": checks, "reference": reference}
    return run(*words, **given)

"""The optimizer that a new one derives from, for the templates of `new`."""

import inspect
from dataclasses import dataclass, field
from typing import Any

from optbench import config as configuration
from optbench.config.targets import load_path
from optbench.errors import UserError, nearest

_NAMES = {"lr": "learning_rate", "eps": "epsilon"}


@dataclass(frozen=True)
class Base:
    """A class of optimizers.

    target: its dotted path. choice: the choice that the new one inherits options and search space from; None where no choice is
    of this class, and ``options`` are its own, with their defaults.
    """

    target: str
    choice: str | None
    options: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, word: str) -> "Base":
        """The base that ``word`` names: a choice of optimizer, or the dotted path of a class.

        Raises UserError for what is neither, and for a method whose step needs more than gradients that are there already.
        """
        known = configuration.choices("optimizer")
        if word in known:
            _check(word)
            return cls(str(configuration.read_choice("optimizer", word)["_target_"]), word)
        if "." not in word:
            raise UserError(
                f"--base {word}: no such optimizer; {nearest(word, known)} (or a class, such as torch.optim.AdamW)"
            )
        targets = {name: configuration.read_choice("optimizer", name).get("_target_") for name in known}
        same = [name for name, target in targets.items() if target == word]
        if same:
            # torch.optim.SGD is sgd, momentum and nesterov.
            named = word.rpartition(".")[2].lower()
            chosen = named if named in same else same[0]
            _check(chosen)
            return cls(word, chosen)
        return cls(word, None, _options(word))

    def known(self) -> dict[str, Any]:
        """The values for the templates."""
        module, _, name = self.target.rpartition(".")
        inherited = configuration.read_choice("optimizer", self.choice) if self.choice is not None else {}
        return {
            "base_module": module, "base_name": name, "base_choice": self.choice, "options": self.options,
            "may_couple_decay": "weight_decay_mode" in inherited,
        }  # fmt: skip


def _check(name: str) -> None:
    choice = configuration.read_choice("optimizer", name)
    info = choice["info"]
    if not str(choice["_target_"]).rpartition(".")[2][0].isupper():
        problem = "it is made by a function"
    elif info.get("evaluations") != "one":
        problem = "its step evaluates the closure itself"
    else:
        return
    raise UserError(
        f"--base {name}: is no class that a template can derive from, as {problem}; accepted: first-order optimizers such as "
        "adamw, or a class such as torch.optim.AdamW"
    )


def _options(path: str) -> dict[str, float]:
    """The numbers that the constructor of a class takes, with their defaults, under the names that options have."""
    # The one case that imports torch: no file says what this class takes.
    import torch

    target = load_path(path, "--base", torch.optim.Optimizer)
    if not isinstance(target, type):
        raise UserError(f"--base {path}: is a function; accepted: a class such as torch.optim.AdamW")
    defaults = {name: given.default for name, given in inspect.signature(target).parameters.items()}
    options: dict[str, float] = {}
    for name, value in defaults.items():
        if isinstance(value, float):
            options[_NAMES.get(name, name)] = value
        elif name == "betas" and isinstance(value, tuple) and len(value) == 2:
            options |= {"beta1": value[0], "beta2": value[1]}
    if "learning_rate" not in options:
        raise UserError(
            f"--base {path}: has no argument lr with a default; accepted: a class such as torch.optim.AdamW"
        )
    return options

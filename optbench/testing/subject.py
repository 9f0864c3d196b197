"""The subject of a certificate: a choice of the bench, the dotted path of a class, or a name of the pytorch-optimizer package."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from torch import nn

from optbench import config as configuration
from optbench import optimizers
from optbench.config import Choice, Config
from optbench.config.targets import imported
from optbench.config.yaml_text import read_yaml
from optbench.errors import UserError, nearest
from optbench.optimizers import zoo
from optbench.testing import problem

PARTS = ("optimizer", "model", "dataset", "probe")
_LIKE = (
    "accepted: optimizer=NAME, model=NAME, dataset=NAME or probe=NAME, the dotted path of a torch.optim.Optimizer such as "
    "torch.optim.RAdam, or a name of the pytorch-optimizer package"
)
Groups = list[dict[str, Any]]
#: Changes the parameter groups that an optimizer is constructed with.
Arrange = Callable[[Groups], Groups]


@dataclass(frozen=True)
class Subject:
    """The subject of a certificate.

    group: one of `PARTS`. name: of its file, class or method. words: what chooses it, for `optbench.config.compose`.
    handmade: of a class that no file describes, its choice, which stands in the place of the composed one. reference: the
    dotted path of an optimizer with which it has to agree, or None.
    """

    group: str
    name: str
    words: tuple[str, ...]
    handmade: Config | None = None
    reference: str | None = None
    _composed: dict[tuple[str, ...], Config] = field(default_factory=dict, repr=False, compare=False)

    def configured(self, *words: str) -> Config:
        """The resolved configuration of a run with the subject in it; ``words`` make the rest."""
        if words not in self._composed:
            self._composed[words] = configuration.compose([*words, *self.words])
        config = dict(self._composed[words])
        if self.handmade is not None:
            config["optimizer"] = self.handmade
        return config

    @cached_property
    def choice(self) -> Choice:
        """The optimizer as a choice, with durations in steps."""
        # Clipping changes nothing in it, and methods without gradients refuse it.
        configured = self.configured(*problem.COMMON, "clip_norm=null")
        return Choice.of("optimizer", configured["optimizer"]).in_steps(problem.HORIZON)

    @cached_property
    def transforms(self) -> list[Choice]:
        """The transforms around the optimizer, as choices with durations in steps, in their order."""
        configured = self.configured(*problem.COMMON, "clip_norm=null")
        found = configuration.transforms_of(configured)
        return [Choice.of(f"transform.{each['name']}", each).in_steps(problem.HORIZON) for each in found]

    @property
    def without_decay(self) -> dict[str, Any]:
        """The options that switch its weight decay off, where it has one."""
        return {"weight_decay": 0.0} if self.has("weight_decay") else {}

    def has(self, option: str) -> bool:
        """True if it has an option of this name, which `make` can change."""
        return option in self.choice.options or (self.handmade is not None and option in self._accepted())

    def _accepted(self) -> Iterable[str]:
        return _arguments(imported(self.choice.target, "optimizer"))

    def make(
        self, model: nn.Module, arrange: Arrange | None = None, lr: float | None = None, **options: Any
    ) -> torch.optim.Optimizer:
        """The optimizer of ``model``, as a run builds it.

        arrange: what is done to the parameter groups on their way into the constructor. lr: in place of its learning rate.
        options: in place of its own.
        """
        choice = replace(self.choice, options={**self.choice.options, **options})
        rate = choice.options.get("learning_rate") if lr is None else lr
        with _arranged(arrange) if arrange is not None else contextlib.nullcontext():
            return optimizers.build(choice, model, rate, transforms=self.transforms)

    @property
    def exceptions(self) -> dict[str, str]:
        """The checks that its file, or that of a transform, says do not apply to the method, each with the reason."""
        if self.group != "optimizer":
            return {}
        stated = [each.info.get("exceptions", {}) for each in (self.choice, *self.transforms)]
        return {str(name): str(reason) for exceptions in stated for name, reason in exceptions.items()}


@contextlib.contextmanager
def _arranged(arrange: Arrange) -> Iterator[None]:
    """Within it, every optimizer is constructed with the groups that ``arrange`` makes of those it was given."""
    construct = torch.optim.Optimizer.__init__

    def with_others(self: torch.optim.Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        construct(self, arrange([{**group, "params": list(group["params"])} for group in groups]), defaults)

    with mock.patch.object(torch.optim.Optimizer, "__init__", with_others):
        yield


def of(words: Sequence[str], reference: str | None = None) -> Subject:
    """The subject that ``words`` name, the first of them; raises UserError for one that is not there."""
    if not words:
        raise UserError(f"certify: nothing is named; {_LIKE}")
    first, *rest = words
    group, separator, name = first.partition("=")
    if not separator:
        group, name = "optimizer", first
    if group not in PARTS or not name:
        raise UserError(f"{first}: cannot be certified; {_LIKE}")
    if reference is not None and group != "optimizer":
        raise UserError(f"reference={reference}: accepted: for an optimizer only")
    known = configuration.choices(group)
    if name in known:
        subject = Subject(group, _name(name, rest), (f"{group}={name}", *rest), reference=reference)
    elif group == "optimizer" and "." in name:
        subject = Subject(group, name, (), _handmade(name, rest), reference)
    elif group == "optimizer" and name.lower() in _zoo():
        words = ("optimizer=zoo", f"optimizer.name={name.lower()}", *rest)
        subject = Subject(group, name.lower(), words, reference=reference)
    else:
        hint = nearest(name, [*known, *(_zoo() if group == "optimizer" else ())])
        raise UserError(f"{first}: no such {group}; {hint}; {_LIKE}")
    if reference is not None and not isinstance(imported(reference, "reference"), type):
        raise UserError(f"reference={reference}: is no class; accepted: the dotted path of a torch.optim.Optimizer")
    return subject


def _name(name: str, rest: Sequence[str]) -> str:
    """Of a choice whose name is an option, such as the zoo, that name."""
    named = next((word.partition("=")[2] for word in rest if word.startswith("optimizer.name=")), "")
    return named.lower() or name


def _zoo() -> list[str]:
    """The names of the pytorch-optimizer package; none where it is not installed."""
    try:
        return list(zoo.classes())
    except UserError:
        return []


def _handmade(path: str, words: Sequence[str]) -> Config:
    """The choice for a class that no file describes, with the defaults of its constructor.

    Raises UserError where it cannot be imported, is no optimizer or has no learning rate, and for an option it does not have.
    """
    target = imported(path, "optimizer")
    if not (isinstance(target, type) and issubclass(target, torch.optim.Optimizer)):
        raise UserError(f"{path}: is no subclass of torch.optim.Optimizer; {_LIKE}")
    accepted = _arguments(target)
    if "lr" not in accepted:
        raise UserError(f"{path}: its constructor has no argument lr; accepted: a class whose learning rate can be set")
    options: Config = {"learning_rate": accepted["lr"].default}
    for word in words:
        key, _, value = word.partition("=")
        option = key.removeprefix("optimizer.")
        if not key.startswith("optimizer.") or (option not in accepted and option != "learning_rate"):
            raise UserError(f"{word}: not an option of {path}; {nearest(option, ['learning_rate', *accepted])}")
        options[option] = read_yaml(value)
    rate = options["learning_rate"]
    if isinstance(rate, torch.Tensor):
        options["learning_rate"] = rate = float(rate)
    if not isinstance(rate, int | float):
        raise UserError(f"{path}: has no default learning rate; accepted: optimizer.learning_rate=0.1 beside it")
    schema = {name: "float" if name == "learning_rate" else "mapping" for name in options}
    info = {"about": path, "source": path, "family": "adaptive", "schema": schema}
    return {"_target_": path, "name": path.rpartition(".")[2].lower(), **options, "info": info}


def _arguments(target: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class's constructor, and of those it hands the rest on to."""
    found: dict[str, inspect.Parameter] = {}
    for base in target.__mro__:
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__dict__["__init__"]).parameters
            found = {**parameters, **found}
            if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                break
    return {name: each for name, each in found.items() if each.kind is not each.VAR_KEYWORD and name != "self"}


# ---- arrangements of parameter groups ----------------------------------------------------------------------------------------


def reversed_order(groups: Groups) -> Groups:
    """The same groups and parameters in the opposite order."""
    return [{**group, "params": group["params"][::-1]} for group in reversed(groups)]


def one_each(groups: Groups) -> Groups:
    """A group for every parameter, with the options that it has."""
    return list(itertools.chain(*([{**group, "params": [each]} for each in group["params"]] for group in groups)))

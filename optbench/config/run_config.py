"""The typed form of a resolved configuration, for the code that checks, plans and builds runs.

The nested mapping is what is composed, named by a run id and frozen in the run's directory; `RunConfig.of` reads it once.
Options of choices stay mappings, because users add choices with options of their own; durations among them are parsed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from optbench.config.durations import Budget, Horizon
from optbench.config.files import (
    GROUPS,
    Config,
    name_of,
    optimizer_name,
    options,
    shared_options,
    transforms_of,
    works_as,
)
from optbench.config.schema import Duration, Growth, OptionType, spacing
from optbench.config.shared_parts import SharedParts

# For configurations frozen by earlier versions, which had no such option and no such groups.
_RENDEZVOUS_SECONDS = 600.0
_ALL_EXAMPLES = {"name": "none", "info": {"schema": {}}}
_DENSE = {"name": "dense", "workers": 1, "info": {"schema": {"workers": "int >= 1"}}}


@dataclass(frozen=True)
class Choice:
    """A choice of a group: the class or function that its file names, and the options with which it is called.

    group: its place in the configuration, such as "optimizer" or "probe.spectrum". name: its name in the configuration.
    label: its name in run ids and columns, unique among files. rule: the name that tells code what it does, which is that
    of the choice from which it inherits. target: a dotted path; None if nothing is called. options: durations among them
    are `Duration`, or numbers of steps after `in_steps`; those that every choice of its group has are not among them, as
    `RunConfig` holds them. info: the facts that its file states.
    """

    group: str
    name: str
    label: str
    rule: str
    target: str | None
    options: Mapping[str, Any]
    info: Mapping[str, Any]

    @classmethod
    def of(cls, group: str, choice: Mapping[str, Any]) -> "Choice":
        """Read a composed choice of ``group``."""
        info = choice.get("info", {})
        types, shared = info.get("schema", {}), shared_options(group)
        read = {
            name: _parsed(value, types.get(name, "")) for name, value in options(choice).items() if name not in shared
        }
        target = choice.get("_target_")
        return cls(
            group,
            str(choice["name"]),
            name_of(choice),
            works_as(choice),
            None if target is None else str(target),
            MappingProxyType(read),
            MappingProxyType(info),
        )

    def stated(self, fact: str, default: Any = None) -> Any:
        """Return the value that its file states for ``fact`` in its info.

        A choice that stands for methods of many names may state a mapping, with its name in lower case, or ``others``.
        """
        found = self.info.get(fact, default)
        return found.get(self.name.lower(), found.get("others", default)) if isinstance(found, Mapping) else found

    @property
    def schema(self) -> Mapping[str, str]:
        """The types of its options."""
        return self.info.get("schema", {})  # type: ignore[no-any-return]

    def in_steps(self, horizon: Horizon, stretch: bool = False) -> "Choice":
        """The same choice with every duration as a number of steps; ``stretch`` as in `Horizon.in_steps`."""
        resolved = {
            name: _in_steps(value, horizon, stretch) if _is_duration(self.schema.get(name, "")) else value
            for name, value in self.options.items()
        }
        return replace(self, options=MappingProxyType(resolved))

    def without(self, *names: str) -> Mapping[str, Any]:
        """Its options except ``names``."""
        return {name: value for name, value in self.options.items() if name not in names}


@dataclass(frozen=True)
class Devices:
    """The devices of a run (the group `trainer`): an accelerator, and ``devices`` ranks on each of ``num_nodes`` machines.

    rendezvous_seconds: the longest time that ranks wait for each other. deterministic: on GPUs only kernels that repeat bit
    for bit. sharding: what the ranks divide, "none", "zero1" (the optimizer's state) or "fsdp2" (weights and gradients, too).
    """

    accelerator: str
    devices: int
    num_nodes: int
    rendezvous_seconds: float
    deterministic: bool
    sharding: str = "none"

    @classmethod
    def of(cls, choice: Mapping[str, Any]) -> "Devices":
        """Read a composed choice of the group `trainer`."""
        given = {"rendezvous_seconds": _RENDEZVOUS_SECONDS, "sharding": "none", **choice}
        return cls(**{field.name: given[field.name] for field in fields(cls)})

    @property
    def ranks(self) -> int:
        """The number of processes that train one run together."""
        return self.devices * self.num_nodes

    def __str__(self) -> str:
        """The two options whose product is the number of ranks."""
        return f"trainer.devices={self.devices} x trainer.num_nodes={self.num_nodes}"


@dataclass(frozen=True)
class RunConfig:
    """A resolved configuration, read once; the front page conf/config.yaml explains each value.

    text: the mapping from which it was read; the run id is made from it, and it is what is frozen. transforms: those of the
    optimizer, in the order in which they act. checkpointing: the number of
    segments of the model whose activations are computed anew (``model.checkpointing``), 0 for none.
    """

    text: Config
    optimizer: Choice
    model: Choice
    dataset: Choice
    loss: Choice
    schedule: Choice
    momentum_schedule: Choice
    scaling: Choice
    init: Choice
    averaging: Choice
    communication: Choice
    selection: Choice
    budget: Budget
    trainer: Devices
    transforms: tuple[Choice, ...]
    probes: tuple[Choice, ...]
    batch: int
    base_batch: int
    seed: int
    trial: int
    ghost_batch_size: int | None
    clip_norm: float | None
    precision: str
    eval_every: Duration | Growth
    evaluate_train: int | None
    divergence_factor: float | None
    micro_batch: int | Literal["auto"] | None
    checkpointing: int
    cached_graphs: int | None
    compile: bool
    channels_last: bool
    evaluate_test: Literal["always", "end"]
    log_every: int
    checkpoint_every: Duration | None
    results_dir: str
    data_dir: str
    force: bool
    progress: bool

    @classmethod
    def of(cls, config: Config, shared: SharedParts | None = None) -> "RunConfig":
        """Read a resolved configuration; raises KeyError for one that lacks a key. ``shared``: as for `resolve`."""
        shared = shared or SharedParts()

        def choice(group: str) -> Choice:
            text = config[group]
            return shared.get(("choice", group), (text,), lambda: Choice.of(group, text))

        every = config["checkpoint_every"]
        added = {"channels_last": False, "evaluate_test": "always"}
        config = {"communication": _DENSE, "selection": _ALL_EXAMPLES, **added, **config}
        given: dict[str, Any] = {
            **{field.name: config[field.name] for field in fields(cls) if field.name in config},
            **{group: choice(group) for group in GROUPS if group in cls.__dataclass_fields__},
            "text": config,
            # Configurations that earlier versions froze have no such option.
            "checkpointing": config["model"].get("checkpointing", 0),
            "budget": Budget.of(config["budget"]),
            "trainer": Devices.of(config["trainer"]),
            "transforms": tuple(Choice.of(f"transform.{each['name']}", each) for each in transforms_of(config)),
            "probes": tuple(Choice.of(f"probe.{name}", choice) for name, choice in config.get("probe", {}).items()),
            "eval_every": spacing(config["eval_every"]),
            "checkpoint_every": None if every is None else Duration.parse(every),
        }
        return cls(**given)

    @property
    def optimizer_name(self) -> str:
        """The name of the optimizer in columns, with its transforms: adamw+cautious."""
        return optimizer_name(self.text)

    @property
    def evaluates_once(self) -> bool:
        """True if a step evaluates the objective once."""
        return all(each.stated("evaluations") != "several" for each in (self.optimizer, *self.transforms))

    @property
    def workers(self) -> int:
        """The equal consecutive shares of a batch whose gradients are computed apart; 1 if they are sent whole."""
        return 1 if self.communication.target is None else int(self.communication.options["workers"])

    @property
    def sorted_shards(self) -> bool:
        """True if each worker draws from a shard of its own of the training set, ordered by label."""
        return self.communication.options.get("shards") == "sorted"

    @property
    def stretch(self) -> int:
        """The epochs that one epoch of a duration lasts: regime adaptation gives a larger batch as many updates as the base."""
        return -(-self.batch // self.base_batch) if self.budget.regime_adaptation else 1


def _is_duration(kind: str) -> bool:
    return "duration" in kind and OptionType.parse(kind).base == "duration"


def _parsed(value: Any, kind: str) -> Any:
    if value is None or not _is_duration(kind):
        return value
    return [Duration.parse(item) for item in value] if isinstance(value, list) else Duration.parse(value)


def _in_steps(value: Any, horizon: Horizon, stretch: bool) -> Any:
    if isinstance(value, list):
        return [horizon.in_steps(item, stretch) for item in value]
    return None if value is None else horizon.in_steps(value, stretch)

"""The names of the pytorch-optimizer package: which of them the bench accepts, what those need, and why it refuses the others."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from optbench.errors import UserError


class Need(Enum):
    """The arguments that a method of the package needs."""

    PARAMETERS = "the parameters, in groups by their weight decay"
    LARGEST_STEP = "the parameters, and a largest step in place of a learning rate"
    BASE_CLASS = "the parameters, and the class of another optimizer"
    BASE = "another optimizer"
    HIDDEN_MATRICES = "the hidden matrices, and apart from them all other parameters"
    MODEL = "the model"


@dataclass(frozen=True)
class Standing:
    """The standing of one name: accepted, or refused with the reason.

    refused: the reason, or None where it is accepted. need: as the class says. remark: what to know of an accepted name.
    native: the bench's own choice of that method, or None.
    """

    refused: str | None = None
    need: Need = Need.PARAMETERS
    remark: str = ""
    native: str | None = None

    @property
    def reason(self) -> str:
        """The reason for which it is refused, with the choice to use instead where there is one."""
        instead = f"; use optimizer={self.native}" if self.native else ""
        return f"{self.refused}{instead}"


_WITHIN_BACKWARD = "it updates within the backward pass, and has no step"
_EXCHANGES = "it exchanges gradients or states between ranks by itself, and the bench has done so before the step"
_LOSSES = "it combines the gradients of several losses, and a run has one"
_THRESHOLDS = (
    "its steps jump where averages of the loss cross thresholds, so that rounding, as of micro-batches, changes its end"
)
_PART_OF_LOOP = "it scales losses for half precision, which the bench does by itself (precision=fp16)"

_REFUSED = {
    **dict.fromkeys(("lomo", "adalomo"), _WITHIN_BACKWARD),
    **dict.fromkeys(("demo", "distributedmuon"), _EXCHANGES),
    **dict.fromkeys(("pcgrad", "rotograd"), _LOSSES),
    **dict.fromkeys(("emofact", "emolynx", "emonavi"), _THRESHOLDS),
    **dict.fromkeys(("safefp16optimizer", "dynamiclossscaler"), _PART_OF_LOOP),
    "soap": "its bases depend on rounding, so that its result depends on the micro-batch and on the number of ranks",
    "muonclip": "it clips by logits of attention, which it must be given at every step; without them it is Muon",
    "lorarite": "it needs the pairs of matrices of a low-rank adaptation",
    "spectralsphere": "it moves matrices only, and leaves biases and norm scales where they are",
    "lbfgs": "it is torch's, which diverges on mini-batches without a line search",
    "a2grad": "its steps have no learning rate that a schedule could set",
}
_NEEDS = {
    **dict.fromkeys(("sam", "gsam", "wsam", "looksam", "friendlysam"), Need.BASE_CLASS),
    **dict.fromkeys(("lookahead", "orthograd", "trac", "magma", "schedulefreewrapper"), Need.BASE),
    **dict.fromkeys(("muon", "adamuon", "adago", "normuon"), Need.HIDDEN_MATRICES),
    "adammini": Need.MODEL,
    "alig": Need.LARGEST_STEP,
}
_BASE = "works around SGD with momentum, or around optimizer.options.base=NAME with base_options"
_MATRICES = "orthogonalizes hidden matrices; adamw_lr is the learning rate of all other parameters"
_PRODUCTS = "products with the Hessian are the bench's, with signs that depend on (seed, step) alone"
_MAGNIFIES = (
    "magnifies rounding: in float32 another micro-batch moved weights of a small perceptron by {} within 40 steps"
)
_REMARKS = {
    **{name: _BASE for name, need in _NEEDS.items() if need in (Need.BASE_CLASS, Need.BASE)},
    **{name: _MATRICES for name, need in _NEEDS.items() if need is Need.HIDDEN_MATRICES},
    **dict.fromkeys(("adahessian", "sophiah"), _PRODUCTS),
    **dict.fromkeys(("dadaptadan", "dadaptlion"), "at its default learning rate it diverged on a small perceptron"),
    "adammini": f"its default learning rate is 1; there it {_MAGNIFIES.format(4)}",
    "alice": _MAGNIFIES.format(0.1),
    "alig": "optimizer.learning_rate is its largest step, and has to be given",
    "bsam": "needs optimizer.options.num_data, the number of training examples; evaluates three gradients a step",
    "conda": _MAGNIFIES.format(0.01),
    "dadaptadam": "estimates its step size: about 50 steps on a small perceptron before it descends",
    "dadaptadagrad": "estimates its step size: about 300 steps on a small perceptron before it descends",
    "dadaptsgd": "estimates its step size: about 100 steps on a small perceptron before it descends",
    "gsam": f"{_BASE}; optimizer.options.rho stays constant",
    "kron": "its draws depend on (seed, step) alone; slow and large on the kernels of convolutions",
    "looksam": f"{_BASE}; every step evaluates two gradients",
    "ranger21": "its own schedule is off: schedules are the bench's",
    "sara": "its draws depend on (seed, step) alone",
    "splus": _MAGNIFIES.format(0.4),
    "trac": f"{_BASE}; its first steps are 1e-8 as long (s_prev)",
}
_NATIVE = {
    **{name: name for name in ("adadelta", "adafactor", "adahessian", "adam", "adamax", "adamw", "ademamix", "lamb")},
    **{name: name for name in ("lars", "lbfgs", "lion", "mars", "muon", "nadam", "prodigy", "radam", "rmsprop", "sam")},
    **{name: name for name in ("sgd", "shampoo", "soap")},
    "distributedmuon": "muon",
    "muonclip": "muon",
    "scalableshampoo": "shampoo",
    "schedulefreeadamw": "schedule_free_adamw",
    "schedulefreesgd": "schedule_free_sgd",
    "sophiah": "sophia",
}


def standing(name: str) -> Standing:
    """The standing of ``name``, one of the package's in lower case."""
    return Standing(_REFUSED.get(name), _NEEDS.get(name, Need.PARAMETERS), _REMARKS.get(name, ""), _NATIVE.get(name))


def named() -> set[str]:
    """The names of which more is said than that they are accepted."""
    return {*_REFUSED, *_NEEDS, *_REMARKS, *_NATIVE}


def classes() -> Mapping[str, type[Any]]:
    """Every class that the installed version of the package exports, by its name in lower case.

    Raises UserError where the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Imported here, because it is an optional package and takes half a second.
            import pytorch_optimizer.optimizer as package
    except ImportError as error:
        raise UserError(
            f"optimizer=zoo: needs the pytorch-optimizer package ({error}): pip install 'optbench[zoo]'"
        ) from error
    exported = ((name, getattr(package, name)) for name in package.__all__)
    return dict(sorted((name.lower(), each) for name, each in exported if isinstance(each, type)))


def accepted() -> list[str]:
    """The names of the installed version that the bench accepts."""
    return [name for name in classes() if standing(name).refused is None]

"""The facts about a dataset that a model and a loss need."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["image", "sequence", "tokens", "table", "noise", "problem"]
Target = Literal["class", "class_per_step", "real", "value", "none"]


@dataclass(frozen=True)
class DataSpec:
    """The shapes of a dataset's examples and targets.

    kind: "image": float (channels, height, width); "sequence": float (steps, features); "tokens": int64 (steps,);
        "table": float (features,); "noise": what distinguishes an example of a problem with a known loss, float of any shape;
        "problem": the noise of an example in the gradient of a function, float (weights,).
    shape: the shape of one example, as above.
    outputs: the number of outputs of a model for each prediction: classes, vocabulary size, or real targets.
    target: "class": one int64 class for each example; "class_per_step": int64 (steps,), where -100 means no target;
        "real": float (outputs,); "value": float (0,), as the output itself is the loss;
        "none": no target (only a reconstruction can be learned).
    vocabulary: the number of distinct tokens, for kind "tokens".
    tolerance: for target "real", a prediction within this distance counts as right.
    problem: for the kinds "noise" and "problem", the facts about the loss that the model needs.
    """

    kind: Kind
    shape: tuple[int, ...]
    outputs: int
    target: Target = "class"
    vocabulary: int | None = None
    tolerance: float | None = None
    problem: Any = None

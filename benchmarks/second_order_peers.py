"""The K-FAC steps of other libraries, each as three actions, if they can be imported.

kfac-pytorch (Pauloski et al., the KAISA preconditioner; empirical Fisher), ASDL (``asdfghjkl``; sampled Fisher) and SINGD
(``singd``; inverse-free, empirical Fisher). Each takes the model, the batch, the two periods and a learning rate.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Actions = dict[str, Callable[[], object]]


def _with_sgd(model: nn.Module, lr: float, gradients: Callable[[], object]) -> Callable[[], None]:
    """A step of SGD with momentum on the gradients that ``gradients`` leaves in the parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        gradients()
        optimizer.step()

    return step


def kfac_pytorch(
    model: nn.Module, inputs: Tensor, targets: Tensor, factor_period: int, inverse_period: int, lr: float, method: str
) -> Actions:
    """kfac-pytorch with ``method`` "inverse" or "eigen", with the damping and the clipping of optbench's K-FAC."""
    from kfac.preconditioner import KFACPreconditioner  # type: ignore[import-not-found]

    preconditioner = KFACPreconditioner(
        model,
        factor_update_steps=factor_period,
        inv_update_steps=inverse_period,
        damping=0.03,
        kl_clip=0.01,
        lr=lr,
        compute_method=method,
    )

    def gradients() -> None:
        F.cross_entropy(model(inputs), targets).backward()
        preconditioner.step()

    sgd = _with_sgd(model, lr, gradients)

    def step(number: int) -> None:
        preconditioner._steps = number
        sgd()

    def invert() -> None:
        for _, layer in preconditioner._layers.values():
            layer.compute_a_inv(damping=0.03)
            layer.compute_g_inv(damping=0.03)

    step(0)
    return {
        "precondition only": lambda: step(1),
        "with factors": lambda: step(factor_period),
        "inverse update": invert,
    }


def asdl(
    model: nn.Module, inputs: Tensor, targets: Tensor, factor_period: int, inverse_period: int, lr: float
) -> Actions:
    """ASDL's K-FAC."""
    from asdl.precondition import KfacGradientMaker, PreconditioningConfig  # type: ignore[import-not-found]

    if not torch.cuda.is_available():
        # It calls CUDA's profiler even without CUDA.
        torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: 0  # type: ignore[assignment]
    config = PreconditioningConfig(
        preconditioner_upd_interval=inverse_period,
        curvature_upd_interval=factor_period,
        damping=0.03,
        ema_decay=0.05,
        data_size=len(inputs),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every activation that it has no factors
        maker = KfacGradientMaker(model, config, fisher_type="fisher_mc")

    def gradients() -> None:
        outputs = maker.setup_model_call(model, inputs)
        maker.setup_loss_call(F.cross_entropy, outputs, targets)
        maker.forward_and_backward()

    sgd = _with_sgd(model, lr, gradients)

    def step(number: int) -> None:
        maker.state["step"] = number
        sgd()

    step(0)
    return {
        "precondition only": lambda: step(1),
        "with factors": lambda: step(factor_period),
        "inverse update": maker.update_preconditioner,
    }


def singd(
    model: nn.Module, inputs: Tensor, targets: Tensor, factor_period: int, inverse_period: int, lr: float
) -> Actions:
    """SINGD with dense factors. It has no inverses: all its updates are in the step with factors."""
    from singd.optim.optimizer import SINGD  # type: ignore[import-not-found]

    optimizer: Any = SINGD(model, lr=lr, damping=0.03, T=factor_period, warn_unsupported=False)

    def step(number: int) -> None:
        optimizer.steps = number
        optimizer._grad_scales = {number - 1: 1.0, number: 1.0}  # it looks up the scale of the previous step
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    step(0)
    return {"precondition only": lambda: step(1), "with factors": lambda: step(factor_period)}


PEERS: dict[str, Callable[..., Actions]] = {
    "kfac-pytorch, inverse": partial(kfac_pytorch, method="inverse"),
    "kfac-pytorch, eigen": partial(kfac_pytorch, method="eigen"),
    "ASDL": asdl,
    "SINGD, dense": singd,
}

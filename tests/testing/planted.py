"""Optimizers with one fault each, as somebody might write them, and the clean one that they are made from."""

import random

import torch


class Clean(torch.optim.Optimizer):
    """Adam with decoupled weight decay, times the learning rate, for one tensor after the other.

    Its parts are methods, so that a fault is a method of a few lines.
    """

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "weight_decouple": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.evaluate(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if self.is_due(parameter):
                    self.decay(group, parameter)
                    self.update(group, parameter, self.gradient(group, parameter))
        return loss

    def evaluate(self, closure):
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def is_due(self, parameter):
        return parameter.grad is not None

    def gradient(self, group, parameter):
        return parameter.grad

    def decay(self, group, parameter):
        parameter.mul_(1 - self.rate(group) * group["weight_decay"])

    def rate(self, group):
        return group["lr"]

    def memory(self, parameter):
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["m"], state["v"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state

    def betas(self, group):
        return group["betas"]

    def corrections(self, group, state):
        """1 - β₁ᵗ and 1 - β₂ᵗ of the step that is taken."""
        state["step"] += 1
        return tuple(1 - beta ** state["step"] for beta in group["betas"])

    def update(self, group, parameter, gradient):
        state = self.memory(parameter)
        beta1, beta2 = self.betas(group)
        state["m"].lerp_(gradient, 1 - beta1)
        state["v"].lerp_(gradient.square(), 1 - beta2)
        first, second = self.corrections(group, state)
        parameter.addcdiv_(state["m"], (state["v"] / second).sqrt() + group["eps"], value=-self.rate(group) / first)


# ---- what is not in the state ------------------------------------------------------------------------------------------------


class MomentumNotSaved(Clean):
    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.kept = {}

    def memory(self, parameter):
        state = super().memory(parameter)
        state["m"] = self.kept.setdefault(parameter, state["m"])
        return state

    def state_dict(self):
        found = super().state_dict()
        found["state"] = {
            number: {name: value for name, value in state.items() if name != "m"}
            for number, state in found["state"].items()
        }
        return found

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            state["m"] = torch.zeros_like(parameter)


class KeyedById(Clean):
    """Its memory is a dictionary of its own, by the id of the weight."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.kept = {}

    def memory(self, parameter):
        fresh = {"step": 0, "m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}
        return self.kept.setdefault(id(parameter), fresh)


class StepOfItsOwn(Clean):
    """The number of the step is an attribute: the bias corrections begin anew in a run that is continued."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.taken = 0

    def evaluate(self, closure):
        self.taken += 1
        return super().evaluate(closure)

    def corrections(self, group, state):
        return tuple(1 - beta**self.taken for beta in group["betas"])


class LoadingResetsTheStep(Clean):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["step"] = 0


class PythonDraws(Clean):
    """Noise from Python's generator, which no checkpoint holds."""

    def gradient(self, group, parameter):
        return parameter.grad * (1 + 0.1 * random.random())


SEEN = {}


class CacheOfTheModule(Clean):
    """A cache that outlives the optimizer: the next one of the same process begins with it."""

    def gradient(self, group, parameter):
        past = SEEN.get(parameter.shape, parameter.grad)
        SEEN[parameter.shape] = parameter.grad.clone()
        return parameter.grad + 0.1 * past


class StateRunsCode(Clean):
    """An object of its own class in the state, which only unpickling can bring back."""

    def memory(self, parameter):
        state = super().memory(parameter)
        state.setdefault("kind", Kind())
        return state


class Kind:
    pass


# ---- what belongs to whom ----------------------------------------------------------------------------------------------------


class KeyedByOrder(Clean):
    """Its memory is a list in the order of the weights that have a gradient at the step."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.kept = []

    def evaluate(self, closure):
        loss = super().evaluate(closure)
        parameters = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
        for number, parameter in enumerate(parameters):
            if number == len(self.kept):
                self.kept.append(0.0)
            # The mean absolute gradient of whatever had this place.
            self.kept[number] = 0.9 * self.kept[number] + 0.1 * float(parameter.grad.abs().mean())
            self.state[parameter]["place"] = self.kept[number]
        return loss

    def memory(self, parameter):
        state = self.state[parameter]
        if "m" not in state:
            state.update(step=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
        return state

    def gradient(self, group, parameter):
        return parameter.grad / (0.1 + self.state[parameter]["place"])


class StepSharedByGroups(Clean):
    """One counter, which every group takes further."""

    def update(self, group, parameter, gradient):
        if parameter is group["params"][0]:
            self.param_groups[0]["taken"] = self.param_groups[0].get("taken", 0) + 1
        super().update(group, parameter, gradient)

    def corrections(self, group, state):
        return tuple(1 - beta ** self.param_groups[0]["taken"] for beta in group["betas"])


class FirstGroupsRate(Clean):
    def rate(self, group):
        return self.param_groups[0]["lr"]


class SharedMemory(Clean):
    """Weights of the same shape have one memory."""

    def memory(self, parameter):
        state = super().memory(parameter)
        for other, found in self.state.items():
            if other is not parameter and other.shape == parameter.shape and "m" in found:
                state["m"] = found["m"]
                break
        return state


class GradientAsMemory(Clean):
    """The first gradient becomes the memory, and not a copy of it."""

    def memory(self, parameter):
        if not self.state[parameter]:
            self.state[parameter] |= {"step": 0, "m": parameter.grad, "v": torch.zeros_like(parameter)}
        return self.state[parameter]


class GradientsChanged(Clean):
    """It clips the gradients in place."""

    def gradient(self, group, parameter):
        return parameter.grad.clamp_(-1e-3, 1e-3)


# ---- what it reads -----------------------------------------------------------------------------------------------------------


class RateAtConstruction(Clean):
    def __init__(self, params, lr=1e-2, **options):
        super().__init__(params, lr, **options)
        self.lr = lr

    def rate(self, group):
        return self.lr


class RateOfTheFirstStep(Clean):
    def rate(self, group):
        return group.setdefault("rate", group["lr"])


class MomentumAtConstruction(Clean):
    def __init__(self, params, betas=(0.9, 0.99), **options):
        super().__init__(params, betas=betas, **options)
        self.own_betas = betas

    def betas(self, group):
        return self.own_betas

    def corrections(self, group, state):
        state["step"] += 1
        return tuple(1 - beta ** state["step"] for beta in self.own_betas)


class DividesByTheRate(Clean):
    """The gradient is divided by the rate, and the step multiplied with it."""

    def gradient(self, group, parameter):
        rate = torch.tensor(group["lr"])
        return parameter.grad / rate * rate


class StaleBiasCorrection(Clean):
    """The correction of the step before."""

    def corrections(self, group, state):
        found = tuple(1 - beta ** max(state["step"], 1) for beta in group["betas"])
        state["step"] += 1
        return found


# ---- weight decay ------------------------------------------------------------------------------------------------------------


class DecayInside(Clean):
    """It says that its decay is decoupled, and adds it to the gradient."""

    def decay(self, group, parameter):
        pass

    def gradient(self, group, parameter):
        return parameter.grad + group["weight_decay"] * parameter


class DecayOutside(DecayInside):
    """It says that its decay is coupled, and shrinks the weights."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        for group in self.param_groups:
            group["weight_decouple"] = False

    def decay(self, group, parameter):
        Clean.decay(self, group, parameter)

    def gradient(self, group, parameter):
        return parameter.grad


class DecayWithoutTheRate(Clean):
    """Decoupled, and not times the learning rate, so that a schedule does not reach it."""

    def decay(self, group, parameter):
        parameter.mul_(1 - group["weight_decay"])


class DecayOfBiases(Clean):
    """It decays all weights alike, whatever their group says."""

    def decay(self, group, parameter):
        parameter.mul_(1 - self.rate(group) * max(each["weight_decay"] for each in self.param_groups))


class DecayIgnored(Clean):
    def decay(self, group, parameter):
        pass


# ---- which weights move ------------------------------------------------------------------------------------------------------


class FrozenDecay(Clean):
    """Weights without a gradient decay, too. There is always a little decay."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.evaluate(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None and parameter in self.state:
                    parameter.mul_(1 - group["lr"] * 0.01)
                elif parameter.grad is not None:
                    self.update(group, parameter, parameter.grad)
        return loss


class UnusedMove(Clean):
    """A gradient that is None counts as 0, and 0 is not what comes out."""

    def is_due(self, parameter):
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 1e-6)
        return parameter.grad is not None


class TiedTwice(Clean):
    """It walks over the layers, and updates a weight once for each that holds it."""

    @classmethod
    def from_model(cls, model, lr, **options):
        made = cls(model.parameters(), lr=lr, **options)
        made.again = [
            weight for module in model.modules() for weight in module._parameters.values() if weight is not None
        ]
        return made

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.evaluate(closure)
        for parameter in self.again:
            self.update(self.param_groups[0], parameter, parameter.grad)
        return loss


class GradientOfTheLastUse(Clean):
    """It takes a layer's gradient from its inputs and the gradient of its outputs, as they were where it was last used."""

    @classmethod
    def from_model(cls, model, lr, **options):
        made = cls(model.parameters(), lr=lr, **options)
        made.inputs, made.own = {}, {}
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(made.keep)
                module.register_full_backward_hook(made.collect)
        return made

    def keep(self, module, inputs, output):
        self.inputs.setdefault(module, []).append(inputs[0].detach())

    def collect(self, module, grad_input, grad_output):
        self.own[module.weight] = grad_output[0].mT @ self.inputs[module].pop()

    def gradient(self, group, parameter):
        return self.own.get(parameter, parameter.grad)


class OneGroupOnly(Clean):
    """A group that is added later has no memory, which is made in the constructor."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        for group in self.param_groups:
            for parameter in group["params"]:
                Clean.memory(self, parameter)

    def memory(self, parameter):
        return self.state[parameter]


# ---- how it computes ---------------------------------------------------------------------------------------------------------


class ClosureTwice(Clean):
    def evaluate(self, closure):
        loss = super().evaluate(closure)
        if closure is not None:
            super().evaluate(closure)
        return loss


class OtherWithoutClosure(Clean):
    """Without a closure it takes the gradient twice as large."""

    def evaluate(self, closure):
        self.factor = 1.0 if closure is not None else 2.0
        return super().evaluate(closure)

    def gradient(self, group, parameter):
        return parameter.grad - (self.factor - 1) * 0.5


class StateInFloat32(Clean):
    def memory(self, parameter):
        if not self.state[parameter]:
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            self.state[parameter] |= {"step": 0, "m": zeros, "v": zeros.clone()}
        return self.state[parameter]

    def update(self, group, parameter, gradient):
        state = self.memory(parameter)
        beta1, beta2 = group["betas"]
        state["m"].lerp_(gradient.float(), 1 - beta1)
        state["v"].lerp_(gradient.square().float(), 1 - beta2)
        first, second = self.corrections(group, state)
        change = state["m"] / ((state["v"] / second).sqrt() + group["eps"])
        parameter.sub_(change.to(parameter.dtype), alpha=self.rate(group) / first)


class LoadedAsSaved(Clean):
    """The state keeps the dtype of the run that has saved it."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        parameters = [each for group in self.param_groups for each in group["params"]]
        for number, state in state_dict["state"].items():
            self.state[parameters[number]].update(state)


class CountsBackwardPasses(Clean):
    """A hook counts the backward passes since the last step, and the step is divided by their number."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.passes = 0
        self.param_groups[0]["params"][0].register_hook(self.count)

    def count(self, gradient):
        self.passes += 1

    def gradient(self, group, parameter):
        return parameter.grad

    def step(self, closure=None):
        self.passes = 0
        return super().step(closure)

    def rate(self, group):
        return group["lr"] / max(self.passes, 1)


class LocalGradients(Clean):
    """It measures the gradient's noise by one rank's share of the batch alone."""

    def rate(self, group):
        if torch.distributed.is_initialized():
            return group["lr"] * (1 + 0.1 * torch.distributed.get_rank())
        return group["lr"]


class DifferentOrders(Clean):
    """Weights are scaled by their place in the list."""

    def rate(self, group):
        self.place = getattr(self, "place", 0) + 1
        return group["lr"] / (1 + self.place % 4)

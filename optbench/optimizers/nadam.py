"""NAdam that resumes bit for bit in every precision."""

from typing import Any

import torch


class NAdam(torch.optim.NAdam):
    """torch's NAdam (Dozat 2016), with the running product Πμ restored exactly as it was saved.

    torch keeps the product in float32, but casts it to the dtype of the weights when a state is loaded, which changes every
    later step of a float64 or bfloat16 run.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load ``state_dict``, as ``torch.optim.Optimizer.load_state_dict`` does."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            saved = state_dict["state"].get(number, {}).get("mu_product")
            if saved is not None:
                self.state[parameter]["mu_product"] = saved.clone().to(self.state[parameter]["mu_product"].device)

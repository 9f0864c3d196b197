"""The peak rate of matrix products on GPUs, from the vendor's data sheets: dense, with accumulation in float32 (no torch).

In FLOP/s. A rate given "with sparsity" is halved. float64 includes tensor cores, where there are any. fp32 is without tensor
cores, as torch computes it at precision=fp32.

Sources (NVIDIA): data sheets of the V100 (2020), A100 (2021), H100 (2023), H200 (2024) and T4 (2019); "Ada GPU architecture",
white paper 2022, appendix A, for the RTX 4090 and 3090.
"""

import re

_TERA = 10**12
# Searched in order in the device's name as a word, the more specific ones first. A rate that is missing is unknown.
_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    ("H200 NVL", {"fp64": 60, "fp32": 60, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5}),
    ("H200", {"fp64": 67, "fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp16": 989.5}),
    ("H100 NVL", {"fp64": 60, "fp32": 60, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5}),
    ("H100 PCIe", {"fp64": 51, "fp32": 51, "tf32": 378, "bf16": 756.5, "fp16": 756.5}),
    ("H100", {"fp64": 67, "fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp16": 989.5}),
    ("A100", {"fp64": 19.5, "fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312}),
    ("V100S", {"fp64": 8.2, "fp32": 16.4, "fp16": 130}),
    ("V100-PCIE", {"fp64": 7, "fp32": 14, "fp16": 112}),
    ("V100", {"fp64": 7.8, "fp32": 15.7, "fp16": 125}),
    ("RTX 4090", {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2}),
    ("RTX 3090", {"fp32": 35.6, "tf32": 35.6, "bf16": 71, "fp16": 71}),
    ("T4", {"fp32": 8.1, "fp16": 65}),
)


def peak(device: str, precision: str) -> float | None:
    """FLOP/s of the device called ``device`` at ``precision`` (fp32, tf32, bf16, fp16, fp64); None if it is not known.

    A part of a GPU (MIG), and a variant of another name, such as "RTX 4090 D" or "Laptop GPU", is not known.
    """
    if re.search(r"\b(MIG|Laptop|Max-Q|D)\b", device, re.IGNORECASE):
        return None
    for name, rates in _PEAKS:
        # "A100-SXM4-40GB" is an A100; "A100X" and "GH200" are not.
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", device, re.IGNORECASE):
            rate = rates.get(precision)
            return None if rate is None else rate * _TERA
    return None

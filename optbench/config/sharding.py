"""Check that ranks can divide the state of a run as ``trainer.sharding`` says: what its optimizer and its other choices allow."""

from collections.abc import Mapping

from optbench.config.files import choices, content_of, parts_of, path_of
from optbench.config.run_config import Choice, RunConfig
from optbench.errors import UserError


def check_sharding(config: RunConfig) -> None:
    """Raise UserError if ranks cannot divide the state of the optimizer, or the weights, of this run."""
    sharding, optimizer = config.trainer.sharding, config.optimizer
    if sharding == "none" or config.trainer.ranks == 1:
        return
    typed, whole = f"trainer.sharding={sharding}", "trainer.sharding=none"
    if sharding not in _shardings_of(optimizer):
        if sharding == "fsdp2" and "zero1" in _shardings_of(optimizer):
            why = "needs whole tensors, of which every rank would have rows"
        elif optimizer.stated("evaluations") == "several" or optimizer.info.get("family") == "second_order":
            why = "needs the weights, gradients and products of the whole model on every rank"
        else:
            why = f"does not say in its file that ranks may divide it (sharding: [{sharding}] in its info)"
        able = [name for name in choices("optimizer") if sharding in _shardings_stated(name)]
        other = f"{whole} or zero1" if "zero1" in _shardings_of(optimizer) else whole
        raise UserError(f"{typed}: optimizer={optimizer.name} {why}; accepted: {other}, or one of {', '.join(able)}")
    if config.transforms:
        names = ",".join(each.name for each in config.transforms)
        raise UserError(
            f"{typed}: transform=[{names}]: a transform needs whole weights, gradients and steps on every rank; accepted: "
            f"{whole}, or transform=none"
        )
    if config.communication.target is not None:
        raise UserError(
            f"{typed}: communication={config.communication.name} has a memory for every worker, and workers have whole "
            f"gradients; accepted: {whole}, or communication=dense"
        )
    other = f"{whole} or zero1"
    for probe in config.probes:
        if sharding == "fsdp2" or probe.info.get("reads_optimizer_state"):
            needs = "all weights" if sharding == "fsdp2" else "the optimizer's whole state"
            raise UserError(
                f"{typed}: {probe.group.replace('probe.', 'probe=')} needs {needs} on every rank; accepted: "
                f"{other if sharding == 'fsdp2' else whole}, or probe=none and afterwards `python -m optbench probe RUN "
                f"{probe.group.replace('probe.', 'probe=')}`"
            )
    if sharding != "fsdp2":
        return
    if config.schedule.rule == "lanczos":
        raise UserError(f"{typed}: schedule={config.schedule.name} needs products with the Hessian; accepted: {other}")
    if config.compile:
        raise UserError(f"{typed}: does not go together with compile=true; accepted: {other}, or compile=false")
    if config.precision == "fp16":
        raise UserError(f"{typed}: loss scaling needs whole gradients; accepted: {other}, or fp64, fp32, tf32, bf16")


def _shardings_of(optimizer: Choice) -> list[str]:
    """The values of ``trainer.sharding`` with which ``optimizer`` is right."""
    if path_of("optimizer", optimizer.label) is None:  # one of a package, by its name, or whose file is gone
        return list(optimizer.info.get("sharding", []))
    return _shardings_stated(optimizer.label)


def _shardings_stated(name: str) -> list[str]:
    """Those that the file of an optimizer states, or the file that it inherits its class from: another class, another update."""
    path = path_of("optimizer", name)
    content = content_of(path) if path is not None else {}
    info = content.get("info")
    if isinstance(info, Mapping) and "sharding" in info:
        stated = info["sharding"]
        return list(stated) if isinstance(stated, list) else [stated]
    if "_target_" in content:
        return []
    return next((found for part in parts_of(content, "optimizer")[::-1] if (found := _shardings_stated(part))), [])

"""Reject typed words that another word silently cancels; the message names both."""

from collections.abc import Iterable, Sequence
from typing import Any

from optbench.config.durations import Budget
from optbench.config.files import Config
from optbench.config.resolving import drawn_instead
from optbench.errors import UserError


def check_trials(words: Sequence[str], configs: Iterable[Config]) -> None:
    """Raise UserError if one of ``words``, such as optimizer.learning_rate=0.1, sets an option that a trial of ``configs`` draws.

    A value other than the default is refused when a configuration is resolved; one that repeats the default shows only
    in the words.
    """
    options = {key.removeprefix("optimizer."): text for key, text in _settings(words) if key.startswith("optimizer.")}
    if not options:
        return
    for config in configs:
        optimizer = config["optimizer"]
        for name in optimizer["info"].get("search_space") or {} if config["trial"] else {}:
            if name in options and _value(options[name]) != optimizer[name]:
                raise drawn_instead(optimizer["name"], name, options[name], config["trial"])


def check_budget(words: Sequence[str], configs: Iterable[Config]) -> None:
    """Raise UserError if one of ``words``, such as budget.epochs=1, is a limit that another limit of the budget overrides."""
    typed = {
        key.removeprefix("budget."): text
        for key, text in _settings(words)
        if key in ("budget.samples", "budget.epochs") and _value(text) is not None
    }
    if not typed:
        return
    for config in configs:
        holds = Budget.of(config["budget"]).limit
        for unit, text in typed.items():
            # If samples and epochs are both swept over, the smaller unit holds, too.
            if unit != holds and config["budget"][unit] is not None:
                raise UserError(
                    f"budget.{unit}={text}: has no effect beside budget.{holds}={config['budget'][holds]}, which ends the run "
                    "(the order is steps, or else samples, or else epochs); accepted: only one of the two, as with "
                    f"budget.{holds}=null"
                )


def _settings(words: Sequence[str]) -> list[tuple[str, str]]:
    parts = (word.partition("=") for word in words)
    return [(key.lstrip("+"), text) for key, _, text in parts]


def _value(text: str) -> Any:
    """The value that Hydra reads from the ``text`` after KEY=; the text itself if Hydra cannot read it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text

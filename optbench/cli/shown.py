"""`--cfg job`: the composed configuration as a person reads it, without what the files of its choices say of themselves."""

from collections.abc import Mapping
from typing import Any

from optbench import config as configuration
from optbench.config.yaml_text import write_yaml
from optbench.errors import UserError, nearest


def as_yaml(composed: configuration.Config, package: str | None = None) -> str:
    """The keys of a composed configuration, and its choices by their names, with the options that can be set, as YAML.

    package: the dotted path of a part, such as optimizer, which then is all that is shown. Raises UserError where it is none.
    """
    part: Any = {key: _settable(key, value) for key, value in composed.items()}
    if package in (None, "_global_"):
        return write_yaml(part)
    assert package is not None
    for name in package.split("."):
        if not isinstance(part, Mapping) or name not in part:
            hint = nearest(name, map(str, part)) if isinstance(part, Mapping) else "it has no parts"
            raise UserError(f"--package {package}: {name}: is no part of the configuration; {hint}")
        part = part[name]
    return f"# @package {package}\n{write_yaml(part)}" if isinstance(part, Mapping) else f"{part}\n"


def _settable(key: str, value: Any) -> Any:
    if key in configuration.GROUPS and isinstance(value, Mapping):
        return _choice(value)
    if key in configuration.LIST_GROUPS and isinstance(value, Mapping):
        return {name: _choice(choice) for name, choice in value.items() if name != "none"}
    return value


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    options = configuration.options(choice)
    # Where the name is an option, as the zoo's is, it does not say which choice it is.
    return {"choice" if "name" in options else "name": configuration.file_of(choice), **options}

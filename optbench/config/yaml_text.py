"""YAML in Hydra's dialect, for files that are not read by Hydra itself: a text has the same value wherever it is read.

PyYAML alone reads ``1e-3`` as text, and ``2001-01-01`` as a date. Hydra composes configurations with OmegaConf's loader,
which reads a number and text; this is that loader on PyYAML's parser in C, which is ten times faster.
"""

import re
from typing import Any

import yaml

# So that a caller need not import PyYAML to catch what `read_yaml` raises.
YAMLError = yaml.YAMLError

_FLOAT = "tag:yaml.org,2002:float"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
# As in omegaconf._utils.get_yaml_loader (omegaconf 2.3).
_FLOATS = re.compile(
    r"""^(?:
     [-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_FLOATS_BEGIN = list("-+0123456789.")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        "while constructing a mapping",
                        node.start_mark,
                        f"found duplicate key {key.value}",
                        key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A dumper that quotes text that either dialect would read as another type."""


_Loader.add_implicit_resolver(_FLOAT, _FLOATS, _FLOATS_BEGIN)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Dumper.add_implicit_resolver(_FLOAT, _FLOATS, _FLOATS_BEGIN)


def read_yaml(text: str) -> Any:
    """The value that ``text`` holds. Raises `YAMLError` if it is not YAML, or a mapping has two equal keys."""
    return yaml.load(text, Loader=_Loader)


def write_yaml(value: Any) -> str:
    """``value``, of plain types, as YAML text that `read_yaml` reads as an equal value; keys keep their order."""
    if isinstance(value, dict) and value:
        # One key at a time, so that a part that stands at two keys is written twice, not as an alias.
        return "".join(_dumped({key: part}) for key, part in value.items())
    return _dumped(value)


def _dumped(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

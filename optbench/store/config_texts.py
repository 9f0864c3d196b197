"""The texts of a frozen configuration, as YAML and as JSON, made from those of its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.store.files import plain, to_json

# The texts of parts by their representations, in which 1, 1.0 and True differ. The runs of a sweep have most parts in common,
# and PyYAML needs milliseconds for a whole configuration.
_KNOWN: dict[tuple[str, str], "PartTexts"] = {}
_MOST_KNOWN = 4096


@dataclass(frozen=True)
class PartTexts:
    """One key of a configuration with its value: lines of YAML, and a member of a JSON object.

    json: None if JSON would change the value (infinity, dates, keys that are not text).
    """

    yaml: str
    json: bytes | None


def texts_of(config: Mapping[str, Any]) -> list[PartTexts]:
    """The texts of all parts of ``config``, of plain types, in their order."""
    found = []
    for key, part in config.items():
        name = (repr(key), repr(part))
        texts = _KNOWN.get(name)
        if texts is None:
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            texts = _KNOWN[name] = _texts({key: part})
        found.append(texts)
    return found


def _texts(single: dict[str, Any]) -> PartTexts:
    from optbench.config.yaml_text import write_yaml

    try:
        survives = repr(plain(single)) == repr(single)
    except TypeError:
        survives = False
    return PartTexts(write_yaml(single), to_json(single)[1:-1] if survives else None)


def as_yaml(parts: Sequence[PartTexts]) -> str:
    """The configuration as YAML, as `optbench.config.yaml_text.write_yaml` writes it."""
    return "".join(part.yaml for part in parts) or "{}\n"


def as_json(parts: Sequence[PartTexts]) -> bytes | None:
    """The configuration as a JSON object, as `to_json` writes it; None if JSON would change a value."""
    members = [part.json for part in parts if part.json is not None]
    return b"{" + b", ".join(members) + b"}" if len(members) == len(parts) else None

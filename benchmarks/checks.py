"""What a person can get wrong in a YAML file, said with the file, the key and the way out."""

from collections.abc import Collection
from typing import Any

from pretrain.runtime.config import ConfigError, nearest


def check_keys(
    mapping: Any, where: str, known: Collection[str], required: Collection[str] = ()
) -> dict[str, Any]:
    """``mapping`` itself, once every key of it is known and no required one is absent."""
    if not isinstance(mapping, dict):
        raise ConfigError(f"{where}: expected a mapping of keys, found {mapping!r}")
    for key in mapping:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key}{nearest(str(key), known)}; "
                f"the keys are {', '.join(known)}"
            )
    for key in required:
        if mapping.get(key) is None:
            raise ConfigError(f"{where}: {key} is missing")
    return mapping


def check_choice(value: Any, where: str, kind: str, choices: Collection[str]) -> str:
    """``value`` itself, once it is one of ``choices``."""
    if value not in choices:
        raise ConfigError(
            f"{where}: unknown {kind} {value}{nearest(str(value), choices)}; "
            f"choose from {', '.join(choices)}"
        )
    return value


def check_epochs(value: Any, where: str) -> int | float | None:
    """Epochs of pretraining: a positive number, or None where nobody knows or needs them."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or (number and value > 0):
        return value
    raise ConfigError(f"{where}: epochs is {value!r}, not a positive number")

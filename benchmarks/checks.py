"""What a person can get wrong in a YAML file, said with the file, the key and the way out."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from pretrain.runtime.config import ConfigError, find_config, nearest


def check_double_keys(path: str | Path) -> None:
    """Raise ConfigError for a key that is written twice, in ``path`` or in a ``_BASE_`` of it.

    YAML keeps the last: a whole row would be lost unseen. What else is wrong, load_yaml says.
    """
    file = find_config(path)
    try:
        root = yaml.compose(file.read_text(), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    nodes, base = [root], None
    while nodes:
        node = nodes.pop()
        if not isinstance(node, yaml.MappingNode):
            continue
        names = [key.value for key, _ in node.value]
        for number, name in enumerate(names):
            if name in names[:number]:
                line = node.value[number][0].start_mark.line + 1
                raise ConfigError(f"{path}: line {line}: {name} is there twice; rename one")
        nodes += [value for _, value in node.value]
        if node is root and "_BASE_" in names:
            base = node.value[names.index("_BASE_")][1].value
    if isinstance(base, str):
        beside = file.parent / Path(base).expanduser()  # as load_yaml looks for it
        check_double_keys(beside if beside.is_file() else base)


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

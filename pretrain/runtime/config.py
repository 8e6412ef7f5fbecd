"""One config flavour for the whole project: safe YAML with ``_BASE_``, then ``KEY VALUE`` pairs.

The functions work on any ``yacs`` node: fvcore's in pretraining, Detectron2's in transfer.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

REPOSITORY = Path(__file__).resolve().parents[2]


class ConfigError(ValueError):
    """A config that cannot be used; the message names the file, the key and the way out."""


def find_config(path: str | Path) -> Path:
    """The config file at ``path``: relative paths start at the repository."""
    for candidate in (REPOSITORY / path, Path(path).absolute()):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"{path}: no such config file, neither below {REPOSITORY} nor as given")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The YAML mapping in ``path`` with its ``_BASE_`` merged below it; executes nothing.

    ``_BASE_`` is looked for beside the file that names it, then as any other config.
    """
    file = find_config(path)
    try:
        loaded = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(loaded).__name__}")
    base = loaded.pop("_BASE_", None)
    if base is None:
        return loaded
    beside = file.parent / Path(base).expanduser()
    return _laid_over(load_yaml(beside if beside.is_file() else base), loaded, str(path))


def _laid_over(base: dict, tree: dict, source: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in tree.items():
        below = base.get(key)
        if isinstance(below, dict) and value is not None and not isinstance(value, dict):
            raise ConfigError(f"{source}: {key} is a section in its _BASE_, here it is {value!r}")
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _laid_over(below, value, source) if both else value
    return merged


def merge(cfg: CfgNode, path: str | Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Merge a YAML file, then ``KEY VALUE`` pairs, into ``cfg`` in place.

    Raises ConfigError for an unknown key, naming the nearest known one, and for a bad value.
    """
    if path is not None:
        loaded = load_yaml(path)
        check_known(cfg, flatten(loaded), str(path))
        _merge(str(path), cfg.merge_from_other_cfg, type(cfg)(_as_floats(cfg, loaded)))
    if len(overrides) % 2:
        raise ConfigError(f"overrides come in pairs KEY VALUE; {overrides[-1]!r} has no partner")
    check_known(cfg, overrides[::2], "command line")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        parent, _, name = key.rpartition(".")
        try:
            node = reduce(getitem, parent.split("."), cfg) if parent else cfg
        except KeyError as error:  # below a node that takes any key, from a file
            raise ConfigError(f"command line: {key}: there is no {error}") from error
        value = _as_floats(node, {name: cfg._decode_cfg_value(text)})[name]
        if name in node:
            _merge("command line", cfg.merge_from_list, [key, value])
        else:  # a new key of a node that takes any
            node[name] = value


def _merge(source: str, merge_into: Callable[[Any], None], values: Any) -> None:
    try:
        merge_into(values)
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(f"{source}: {error}") from error


def _as_floats(node: dict, values: dict) -> dict:
    """``values`` with whole numbers as floats where ``node`` has floats: LR 1 means LR 1.0."""
    converted = {}
    for key, value in values.items():
        known = node.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            value = _as_floats(known, value)
        elif type(value) is int and type(known) is float:
            value = float(value)
        converted[key] = value
    return converted


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """``{"A": {"B": 1}}`` as ``{"A.B": 1}``."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(tree: Any) -> Any:
    """A config as dicts, lists, numbers and strings only: what JSON and safe YAML can hold."""
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    return tree


def config_hash(cfg: dict, ignore: Collection[str]) -> str:
    """sha256 of the resolved config less the keys (or whole sections) named in ``ignore``."""
    kept = {key: plain(value) for key, value in flatten(cfg).items() if not is_within(key, ignore)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def is_within(key: str, names: Collection[str]) -> bool:
    """Whether ``key`` is one of ``names``, or in one of the sections that they name."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def nearest(name: str, known: Collection[str]) -> str:
    """`` (did you mean X?)`` for an error message, or nothing when no known name is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""


def check_known(cfg: CfgNode, keys: Collection[str], source: str) -> None:
    """Raise ConfigError for a key or section that ``cfg`` does not have."""
    known = set(flatten(cfg))
    for key in keys:
        node, *path = cfg, *key.split(".")
        for part in path:
            if isinstance(node, CfgNode) and part in node:
                node = node[part]
            elif isinstance(node, CfgNode) and node.is_new_allowed():
                break
            else:
                raise ConfigError(f"{source}: unknown key {key}{nearest(key, known)}")

"""One config flavour for the whole project: safe YAML with ``_BASE_``, then ``KEY VALUE`` pairs.

The functions work on any ``yacs`` node: fvcore's in pretraining, Detectron2's in transfer.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

REPOSITORY = Path(__file__).resolve().parents[2]


class ConfigError(ValueError):
    """A config that cannot be used; the message names the file, the key and the way out."""


class _Loader(yaml.SafeLoader):
    """Of safe YAML, without a key that is written twice: the last would hide the others unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in names[:number]:
                line = key.start_mark.line + 1
                raise ConfigError(f"line {line}: {key.value} is there twice; rename one")
        return super().construct_mapping(node, deep)


def find_config(path: str | Path) -> Path:
    """The config file at ``path``: relative paths start at the repository."""
    for candidate in (REPOSITORY / path, Path(path).absolute()):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"{path}: no such config file, neither below {REPOSITORY} nor as given")


def load_yaml(path: str | Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The YAML mapping in ``path`` with its ``_BASE_`` merged below it; executes nothing.

    ``_BASE_`` is looked for beside the file that names it, then as any other config. above: the
    files whose base it is. Raises ConfigError, with file and line, for a key that is written twice.
    """
    file = find_config(path)
    if file.resolve() in above:
        raise ConfigError(f"{path}: is its own _BASE_; name another file there")
    try:
        loaded = yaml.load(file.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(loaded).__name__}")
    base, loaded = loaded.pop("_BASE_", None), _with_home(loaded)
    if base is None:
        return loaded
    if not isinstance(base, str):
        raise ConfigError(f"{path}: _BASE_ {base!r} is not the name of one file")
    beside = file.parent / Path(base).expanduser()
    above = (*above, file.resolve())
    return _laid_over(load_yaml(beside if beside.is_file() else base, above), loaded)


def _laid_over(base: Any, value: Any) -> Any:
    """``value``, in whose sections what only ``base`` has stays."""
    if not (isinstance(base, dict) and isinstance(value, dict)):
        return value
    return base | {key: _laid_over(base.get(key), each) for key, each in value.items()}


def merge(cfg: CfgNode, path: str | Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Merge a YAML file, then ``KEY VALUE`` (or ``KEY=VALUE``) pairs, into ``cfg`` in place.

    ``~`` at the start of a value is the home folder. Raises ConfigError for an unknown key, naming
    the nearest known one, and for a bad value.
    """
    sources = [] if path is None else [(str(path), load_yaml(path))]
    for key, text in pairs(overrides):
        tree = _with_home(cfg._decode_cfg_value(text))
        for part in reversed(key.split(".")):
            tree = {part: tree}
        sources.append(("command line", tree))
    for source, tree in sources:
        check_known(cfg, flatten(tree), source)
        try:
            cfg.merge_from_other_cfg(type(cfg)(_as_floats(cfg, tree)))
        except (ValueError, KeyError, AssertionError, TypeError) as error:
            raise ConfigError(f"{source}: {error}") from error


def pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Key and text of each ``KEY VALUE`` or ``KEY=VALUE``. Raises ConfigError for a lonely word."""
    found, words = [], iter(overrides)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals and (text := next(words, None)) is None:
            raise ConfigError(f"overrides come in pairs KEY VALUE; {word!r} has no partner")
        found.append((key, text))
    return found


def _with_home(value: Any) -> Any:
    """``value`` with the home folder in the place of ~."""
    if isinstance(value, dict):
        return {key: _with_home(each) for key, each in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) else value


def _as_floats(known: Any, value: Any) -> Any:
    """``value`` with whole numbers as floats where ``known`` has floats: LR 1 means LR 1.0."""
    if isinstance(known, dict) and isinstance(value, dict):
        return {key: _as_floats(known.get(key), each) for key, each in value.items()}
    return float(value) if type(value) is int and type(known) is float else value


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """``{"A": {"B": 1}}`` as ``{"A.B": 1}``."""
    flat = {}
    for key, value in tree.items():
        is_section = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
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
    for key in keys:
        node = cfg
        for part in key.split("."):
            if not isinstance(node, CfgNode) or (part not in node and not node.is_new_allowed()):
                raise ConfigError(f"{source}: unknown key {key}{nearest(key, flatten(cfg))}")
            if part not in node:
                break  # below it any key may stand
            node = node[part]

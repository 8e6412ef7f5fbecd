"""python -m transfer.densepose convert-distances: the published distances as a plain array."""

import argparse
import math
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.runtime import files
from transfer.data.layout import DataError

USER_ERROR = 2
KEY = "Pdist_matrix"
WARNING = (
    "{}: a pickle is a program: loading it runs whatever its maker put into it, with your rights. "
    "Load only a file from a place you trust"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 for a mistake."""
    args = _parser().parse_args(arguments)
    print(WARNING.format(args.pickle), file=sys.stderr)
    if not args.trust:
        print("error: nothing was loaded; --trust goes on", file=sys.stderr)
        return USER_ERROR
    output = args.output or args.pickle.with_suffix(".npy")
    try:
        distances = load_distances(args.pickle)
        files.write_atomically(output, lambda file: np.save(file, distances))
    except (DataError, OSError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return USER_ERROR
    print(f"{output}: {len(distances)} distances")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m transfer.densepose")
    commands = parser.add_subparsers(required=True)
    convert = commands.add_parser(
        "convert-distances",
        help="Pdist_matrix.pkl to an array that evaluation maps into memory",
    )
    convert.add_argument("pickle", type=Path, metavar="Pdist_matrix.pkl")
    convert.add_argument(
        "output", nargs="?", type=Path, metavar="OUT.npy", help="beside the pickle if not given"
    )
    convert.add_argument("--trust", action="store_true", help="load the pickle, as you trust it")
    return parser


def load_distances(file: Path) -> np.ndarray:
    """Unpickle Python 2's dict of distances, (n,) float32; DataError for anything else."""
    try:
        with open(file, "rb") as opened:
            content = pickle.load(opened, encoding="latin1")
    except OSError:
        raise
    except Exception as fault:  # of any kind, where a file is damaged
        raise DataError(f"{file} is not a readable pickle ({fault})") from fault
    packed = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(packed, np.ndarray):
        raise DataError(f"{file}: expected a dict with an array {KEY}, found {content!r:.100}")
    vertices = (1 + math.isqrt(1 + 8 * packed.size)) // 2
    if (
        packed.dtype.kind != "f"
        or packed.shape not in ((packed.size,), (packed.size, 1))
        or not 0 < packed.size == vertices * (vertices - 1) // 2
    ):
        raise DataError(
            f"{file}: {KEY} has shape {packed.shape} and type {packed.dtype}; expected float and "
            "(M(M-1)/2, 1), for M vertices"
        )
    low, high = packed.min(), packed.max()
    if not 0 <= low <= high < np.inf:
        raise DataError(f"{file}: {KEY} is from {low} to {high}; expected finite distances")
    return packed.reshape(-1).astype(np.float32, copy=False)


if __name__ == "__main__":
    sys.exit(main())

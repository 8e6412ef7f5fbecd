"""``python -m pretrain``: train CLoVE on a folder of images."""

import argparse
import sys

from pretrain.checkpoints import CheckpointError
from pretrain.config import get_cfg
from pretrain.data import DataError
from pretrain.runtime import distributed
from pretrain.runtime.config import ConfigError, check_known, merge
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted
from pretrain.train import train


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 input that cannot be used, 75 interrupted and saved, 130 not saved."""
    parser = argparse.ArgumentParser(prog="python -m pretrain", description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR")
    parser.add_argument(
        "--allow-changed",
        action="append",
        default=[],
        metavar="KEY",
        help="with --resume: a config key that may differ from before; may be given again",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config values, last")
    options = parser.parse_intermixed_args(arguments)
    try:
        cfg = get_cfg()
        merge(cfg, options.config_file, options.overrides)
        cfg.freeze()
        check_known(cfg, options.allow_changed, "--allow-changed")
        train(cfg, options.resume, options.allow_changed)
    except (ConfigError, DataError, CheckpointError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted:
        print("interrupted: the same command with --resume goes on", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted: nothing was saved since the last checkpoint", file=sys.stderr)
        return 130
    finally:
        distributed.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())

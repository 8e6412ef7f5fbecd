"""``python -m pretrain``: train CLoVE on a folder of images."""

import argparse
import sys
from collections.abc import Collection, Sequence
from functools import partial

from fvcore.common.config import CfgNode

from pretrain.config import get_cfg
from pretrain.methods import complete
from pretrain.run import accumulation
from pretrain.runtime import slurm
from pretrain.runtime.command import with_exit_code
from pretrain.runtime.config import REPOSITORY, ConfigError, check_known, merge
from pretrain.train import check, require_resume, train


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or queue it."""
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
    parser.add_argument(
        "--slurm", action="store_true", help="queue it, as the config's section SLURM says"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config values, last")
    options = parser.parse_intermixed_args(arguments)
    cfg = get_cfg()
    merge(cfg, options.config_file, options.overrides)
    cfg = complete(cfg)
    check_known(cfg, options.allow_changed, "--allow-changed")
    (submit if options.slurm else train)(cfg, options.resume, options.allow_changed)


def submit(cfg: CfgNode, resume: bool, allowed: Collection[str]) -> None:
    """Queue a pretraining that resumes by itself; what would fail at once there fails here."""
    check(cfg)
    folder = REPOSITORY / cfg.OUTPUT_DIR
    require_resume(folder, resume)
    solver, asked = cfg.SOLVER, cfg.SLURM
    accumulation(solver.TOTAL_BATCH_SIZE, solver.BATCH_SIZE_PER_GPU, asked.NODES * asked.PROCESSES)
    resources = slurm.Resources(
        asked.NODES,
        asked.PROCESSES,
        gpus=0 if cfg.DEVICE == "cpu" else asked.PROCESSES,
        cpus=cfg.DATA.NUM_WORKERS + 1,
        hours=asked.HOURS,
        partition=asked.PARTITION,
        options=slurm.parse_options(asked.OPTIONS, "SLURM.OPTIONS"),
    )
    if job_id := slurm.queued(folder / "slurm"):
        raise ConfigError(f"{folder}: job {job_id} of this run is queued or runs; scancel {job_id}")
    job_id = slurm.submit(
        partial(train, cfg, True, allowed), folder / "slurm", folder.name, resources
    )
    print(
        f"job {job_id} is queued; it prints to {folder / 'slurm'} and logs to "
        f"{folder / 'log.txt'}; scancel {job_id} ends it; the same command with --resume goes on"
    )


if __name__ == "__main__":
    sys.exit(main())

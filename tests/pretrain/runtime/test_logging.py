"""What a run that goes on finds of its metrics."""

import json

from pretrain.runtime.logging import MetricWriter, setup_logger


def test_damaged_lines_of_the_metrics_are_left_out_and_said(tmp_path):
    kept = [json.dumps({"step": n}).encode() for n in (1, 2)]
    lines = [kept[0], bytes(20), b'{"step": null}', b"[1]", kept[1], b'{"step": 3}', b'{"step']
    lines += [b'{"step": Infinity}', 100_000 * b"["]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    setup_logger("pretrain", tmp_path)
    MetricWriter(tmp_path, last_step=2).close()
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines() == kept
    assert "metrics.jsonl: 6 damaged lines are left out" in (tmp_path / "log.txt").read_text()

"""Every image once per epoch, whatever the ranks, from any position."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from pretrain.data import build_data, build_loader
from pretrain.data.folder import list_images
from pretrain.data.multicrop import decode
from pretrain.data.sampler import PositionSampler
from tests.pretrain.tiny import config, write_images


@pytest.mark.parametrize(("images", "batch", "ranks"), [(12, 3, 2), (13, 2, 3), (7, 7, 1)])
def test_ranks_share_an_epoch_without_overlap(images, batch, ranks):
    samplers = [
        PositionSampler(images, batch, 2, seed=5, rank=r, world_size=ranks) for r in range(ranks)
    ]
    per_rank = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in per_rank} == {len(samplers[0])}
    for epoch in (0, 1):
        seen = [index for batches in per_rank for b in batches for e, index in b if e == epoch]
        repeated = -(-images // ranks) * ranks - images
        assert len(seen) - len(set(seen)) <= repeated
        assert set(seen) <= set(range(images))
        if images % (batch * ranks) == 0:
            assert sorted(seen) == list(range(images))


def test_epochs_are_different_orders_and_seeds_too():
    sampler, other = PositionSampler(50, 5, 2, seed=0), PositionSampler(50, 5, 2, seed=1)
    assert sorted(sampler.order(0)) == sorted(sampler.order(1)) == list(range(50))
    assert list(sampler.order(0)) != list(sampler.order(1))
    assert list(sampler.order(0)) != list(other.order(0))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7])
def test_start_skips_exactly_the_first_micro_steps(start):
    everything = list(PositionSampler(11, 3, 3, seed=0))
    assert len(everything) == 9
    assert list(PositionSampler(11, 3, 3, seed=0, start=start)) == everything[start:]


def test_images_are_found_at_any_depth_in_a_fixed_order(tmp_path):
    write_images(tmp_path, 3)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "0.png").rename(tmp_path / "a" / "b" / "0.PNG")
    assert list_images(tmp_path) == ["2.png", "a/b/0.PNG", "nested/1.png"]


def encoded(mode, kind, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("LA", "PNG")],
)
def test_every_kind_of_image_decodes_to_what_pillow_makes_of_it(mode, kind):
    data = encoded(mode, kind)
    found = decode(data).permute(1, 2, 0)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(image.convert("RGB"))
    assert np.abs(found.numpy().astype(int) - expected).max() <= (0 if mode != "CMYK" else 2)
    assert found.is_contiguous()


def test_the_orientation_that_a_camera_noted_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded("RGB", "JPEG", exif=exif)).shape == (3, 20, 30)


def test_deep_grey_levels_and_long_texts_are_read(monkeypatch):
    file = io.BytesIO()
    Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16)[None]).save(file, "PNG")
    assert decode(file.getvalue())[0].tolist() == [list(range(256))]
    text = PngImagePlugin.PngInfo()
    text.add_text("XML", "x" * 2**22, zip=True)
    profile = np.random.default_rng(0).bytes(2**21)
    data = encoded("RGB", "PNG", pnginfo=text, icc_profile=profile)
    assert torch.equal(decode(data), decode(encoded("RGB", "PNG")))


def test_more_pixels_than_the_decoder_takes_are_an_error_with_a_way_out(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 250)
    with pytest.raises(ValueError, match="more than 500 pixels: make it smaller, or cut it up"):
        decode(encoded("RGB", "PNG"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_is_an_error(kind):
    data = encoded("RGB", kind)
    with pytest.raises((OSError, SyntaxError)):
        decode(data[: len(data) // 2])


def private_memory(pid):
    """Bytes that a process shares with no other (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.mark.slow
def test_memory_of_a_worker_does_not_grow_over_2000_batches(tmp_path):
    images = write_images(tmp_path / "images")
    cfg = config(images, tmp_path / "run", DATA__NUM_WORKERS=1, SOLVER__EPOCHS=1)
    data = build_data(cfg, torch.device("cpu"))
    data.images._names = np.tile(data.images._names, 50_000)  # as many as ImageNet has, to look up
    batches = iter(build_loader(cfg, data, 0, torch.device("cpu")))
    used = []
    for _ in range(4):
        for _ in range(500):
            next(batches)
        used.append(private_memory(batches._workers[0].pid))
    print([f"{size / 2**20:.1f} MiB" for size in used])
    assert max(used) - used[0] < 2 * 2**20, used

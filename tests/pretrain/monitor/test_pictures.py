"""What the pictures show, and that the monitor writes them without changing the run."""

import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.augment import MultiCrop
from pretrain.config import get_cfg
from pretrain.monitor import pictures
from pretrain.monitor.measures import attention_weights, match, settled
from pretrain.photometry import normalize
from pretrain.runtime import checkpoints
from pretrain.train import train
from pretrain.visualize import random
from tests.pretrain.monitor.tiny_maps import WHOLE, boxes, clove, noise, unit
from tests.pretrain.tiny import config, write_images

CROPS = noise(2, 3, 96, 96)


def test_principal_components_are_those_of_numpys_svd():
    maps = noise(20, 4, 6) * torch.linspace(5, 1, 20)[:, None, None]
    components, held = pictures.principal_components(maps)
    cells = maps.flatten(1).T.double().numpy()
    _, values, directions = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    for n, direction in enumerate(directions[:3]):
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        expected = ((cells - cells.mean(axis=0)) @ direction).reshape(4, 6)
        np.testing.assert_allclose(components[n], expected, rtol=1e-4, atol=1e-5)
    assert held == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())


def test_a_map_of_fewer_directions_than_colours_has_components_of_zeros():
    components, held = pictures.principal_components(noise(20, 1, 2))
    assert components.shape == (3, 1, 2)
    assert components[1:].abs().max() < 1e-5
    assert held == pytest.approx(1)


@pytest.mark.parametrize(
    ("heads", "kinds"), [(2, {"matches", "attention", "pca"}), (0, {"matches", "pca"})]
)
def test_a_network_that_diverged_is_drawn_and_attention_where_there_is_some(heads, kinds):
    model = clove(heads)
    with torch.no_grad():
        model.student.encoder.conv1.weight.fill_(math.nan)
    models = {"step 1": settled(model, CROPS)}
    figures = pictures.figures(models, CROPS, torch.stack([WHOLE, WHOLE]), CROPS[0])
    assert figures.keys() == kinds
    for figure in figures.values():
        figure.canvas.draw()


class Known(torch.nn.Module):
    """Its maps are 4x5 cells, whatever it is shown."""

    def __init__(self, seed):
        super().__init__()
        self.known = unit(2, 8, 4, 5, seed=seed), unit(2, 8, 4, 5, seed=seed + 1)

    def maps(self, _):
        return self.known


def test_a_picture_of_matches_has_a_line_for_each_and_says_how_many_are_right():
    models, of = {"trained": Known(0), "untrained": Known(5)}, boxes(3, 2)
    figure = pictures.draw_matches(models, noise(2, 3, 64, 64), of)
    for ax, (name, model) in zip(figure.axes, models.items(), strict=False):
        students, teachers = model.known
        found = match(students[:1], teachers[1:], of[:1], of[1:])
        right, among = found.is_right.sum(), found.has_positive.sum()
        share = f"{right / among:.0%}; chance {found.chance:.0%}"
        assert ax.get_title() == f"{name}: {right} of {among} cells are right ({share})"
        lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
        assert sum(line.get_linestyle() == "-" for line in lines) == right
        starts = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]
        cells = found.has_positive[0].nonzero()[:, 0].tolist()  # of 12.8 x 16 px
        expected = [(12.8 * (n % 5 + 0.5) - 0.5, 16 * (n // 5 + 0.5) - 0.5) for n in cells]
        np.testing.assert_allclose(starts, expected, rtol=1e-5)


def test_attention_is_drawn_as_the_rows_of_the_marked_cells():
    model = settled(clove(), CROPS)
    with torch.no_grad():
        maps = model.student(CROPS).flatten(2).transpose(1, 2)
        _, weights = model.attention(maps, maps, maps, average_attn_weights=False)
        actual = attention_weights(model, CROPS)
    torch.testing.assert_close(actual, weights)

    crop, weights = noise(3, 80, 80), noise(1, 3, 16, 16).softmax(dim=-1)
    figure = pictures.draw_attention(["trained"], weights, crop)
    axes = iter(figure.axes)
    for place in (0, 2, 3):  # of 4x4 cells of 20 px: at 1/6, 3/6 and 5/6 of both sides
        (mark,) = next(axes).patches
        assert mark.get_xy() == (20 * place - 0.5, 20 * place - 0.5)
        for head in range(3):
            looks = next(axes).images[0].get_array()
            np.testing.assert_array_equal(looks, 16 * weights[0, head, 5 * place].view(4, 4))


def test_pixels_undo_the_normalization():
    image = torch.rand(3, 4, 5)
    torch.testing.assert_close(pictures.pixels(normalize(image)), image)


@pytest.mark.parametrize("locals_", [0, 2, 9])
def test_any_number_of_views_is_drawn(locals_):
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    cfg = get_cfg().CROPS
    cfg.GLOBAL_SIZE, cfg.NUM_LOCALS, cfg.LOCAL_SIZE = 32, locals_, 16
    views = MultiCrop(cfg)(image, random.Random(0))
    figure = pictures.draw_views(image, views)
    titles = [ax.get_title() for ax in figure.axes[1:] if ax.get_title()]
    assert len(titles) == 2 + locals_
    mirrored = ["mirrored" in title for title in titles]
    assert mirrored == views.crops[:, -1].bool().tolist()
    patches = [patch.get_bbox() for patch in figure.axes[0].patches]
    for patch, (top, left, height, width, *_) in zip(patches, views.crops.tolist(), strict=True):
        # Pixel centres lie at whole numbers
        expected = [left - 0.5, left + width - 0.5, top - 0.5, top + height - 0.5]
        assert [patch.x0, patch.x1, patch.y0, patch.y1] == pytest.approx(expected, abs=1e-4)


def test_the_monitor_writes_images_and_changes_nothing_of_the_run(tmp_path):
    images = write_images(tmp_path / "images", count=3)
    changes = {"SOLVER__EPOCHS": 1, "SOLVER__PRECISION": "bf16", "MONITOR__IMAGES": 3}
    plain = train(config(images, tmp_path / "plain", **changes))
    seen = train(config(images, tmp_path / "seen", MONITOR__PERIOD=1, **changes))
    before, after = checkpoints.load(plain)["model"], checkpoints.load(seen)["model"]
    assert all(torch.equal(before[name], value) for name, value in after.items())
    events = EventAccumulator(str(tmp_path / "seen"), {"images": 0}).Reload()
    tags = [f"monitor/{kind}/{n}" for kind in ("attention", "matches", "pca") for n in (0, 1)]
    assert sorted(events.Tags()["images"]) == tags
    for tag in tags:
        assert [image.step for image in events.Images(tag)] == [0, 1]
        assert all(min(image.width, image.height) > 200 for image in events.Images(tag))

import numpy as np
import pytest

from tests.golden_fill import fill, image, probe, seed_of, values


def test_hash_gives_the_documented_first_values():
    expected = [-0.9999999997671694, -0.14592849439941347, 0.34536146256141365]
    assert values(0, 3).tolist() == expected


def test_seed_is_the_crc32_of_the_name():
    assert seed_of("encoder.conv1.weight") == 575535955
    assert seed_of("image:view0") == 2975438573


def test_fill_gives_the_documented_first_values():
    weight = fill("encoder.conv1.weight", (64, 3, 7, 7))
    np.testing.assert_allclose(weight.ravel()[:2], [-0.032614551, -0.132141382], rtol=1e-7)
    assert fill("encoder.bn1.weight", (64,))[0] == pytest.approx(1.192215323, rel=1e-7)
    assert image("view0", (2, 3, 8, 8)).ravel()[0] == pytest.approx(0.641197801, rel=1e-7)


def test_statistics_are_trivial_unless_asked_for():
    assert (fill("encoder.bn1.running_mean", (64,)) == 0).all()
    assert (fill("encoder.bn1.running_var", (64,)) == 1).all()
    assert np.ptp(fill("encoder.bn1.running_var", (64,), trained_statistics=True)) > 0.3
    assert fill("encoder.bn1.num_batches_tracked", ()).dtype == np.int64


def test_a_salt_changes_tensors_and_images():
    assert (fill("encoder.bn1.weight", (64,), salt="x") != fill("encoder.bn1.weight", (64,))).all()
    assert (image("view0", (1, 3, 4, 4), salt="x") != image("view0", (1, 3, 4, 4))).all()
    assert probe("encoder.bn1.weight", 5).dtype == np.float64

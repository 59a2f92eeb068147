import numpy as np
import pytest
import torch

from truepair.inspection.maps import plane_map


@pytest.fixture(scope="module")
def groups():
    """Two groups far apart, of 12 items each."""
    codes = 0.1 * torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    codes[12:, 0] += 20
    return codes


def test_the_same_codes_have_the_same_map(groups):
    first, second = (plane_map(groups, seed=0) for _ in range(2))
    assert first.shape == (24, 2)
    assert np.array_equal(first, second)


def test_groups_stay_groups(groups):
    placed = plane_map(groups, seed=0)
    distance = np.linalg.norm(placed[:, None] - placed[None], axis=2) + 1e9 * np.eye(24)
    assert ((distance.argmin(1) < 12) == (np.arange(24) < 12)).all()


def test_codes_that_are_all_the_same_or_hardly_any_have_no_map():
    assert plane_map(torch.ones(40, 3), seed=0) is None
    assert plane_map(torch.randn(4, 3), seed=0) is None


def test_codes_of_one_coordinate_have_a_map():
    assert plane_map(torch.randn(20, 1), seed=0).shape == (20, 2)

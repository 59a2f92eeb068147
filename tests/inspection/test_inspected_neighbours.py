import torch

from truepair.inspection.neighbours import directions, nearest


def test_neighbours_are_the_closest_others_in_order():
    codes = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    asked = torch.tensor([3, 29, 0])
    found = nearest(codes, asked, 4).tolist()
    for item, close in zip(asked.tolist(), found, strict=True):
        others = [row for row in range(30) if row != item]
        assert close == sorted(others, key=lambda row: float((codes[row] - codes[item]).norm()))[:4]


def test_an_item_is_never_its_own_neighbour_even_among_equals():
    assert nearest(torch.zeros(4, 2), torch.arange(4), 10).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_no_item_asked_for_no_neighbours():
    assert nearest(torch.zeros(4, 2), torch.arange(0), 2).shape == (0, 2)


def test_distances_of_directions_rank_as_cosines():
    codes = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 21)[:, None]
    cosine = torch.nn.functional.cosine_similarity(codes[:1], codes)[1:]
    assert (nearest(directions(codes), torch.tensor([0]), 19)[0] - 1).tolist() == cosine.argsort(
        descending=True
    ).tolist()

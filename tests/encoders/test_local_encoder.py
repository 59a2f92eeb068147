"""The encoders of SAF and SGR; vectors of the whole against `sgraf_loop`, written from the formulas alone."""

import pytest
import torch
from sgraf_loop import loop_global_image, loop_global_text

from truepair.data.batch import Padded
from truepair.encoders.local import LinearEncoder, LocalEncoder, WholeVector
from truepair.errors import DataError
from truepair.layers import unit_length

DIM = 6


def whole(places=None, dropout=0.0):
    torch.manual_seed(0)
    module = WholeVector(DIM, dropout, places)
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter)
    return module


def weights_of(module):
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return dict(module.named_parameters()) | buffers | {"score.bias": torch.ones(1)}


def sequences(lengths, longest=None):
    lengths = torch.tensor(lengths)
    values = unit_length(torch.randn(len(lengths), longest or int(lengths.max()), DIM))
    return Padded(values * (torch.arange(values.shape[1]) < lengths[:, None])[..., None], lengths)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_whole_of_an_image_is_that_of_the_formulas(training):
    module = whole(places=5).train(training)
    images = sequences([5, 5, 5, 5])
    expected = loop_global_image(images.values, weights_of(module), training)
    torch.testing.assert_close(module(images), expected, atol=1e-5, rtol=1e-5)


def test_the_whole_of_a_caption_is_that_of_the_formulas_at_its_own_length():
    module = whole()
    captions = sequences([1, 7, 3])
    words = [row[:length] for row, length in zip(captions.values, captions.lengths.tolist(), strict=True)]
    torch.testing.assert_close(module(captions), loop_global_text(words, weights_of(module)), atol=1e-5, rtol=1e-5)


def test_padding_and_company_change_nothing():
    module = whole().eval()
    captions = sequences([1, 7, 3])
    padded = Padded(torch.cat([captions.values, torch.zeros(3, 4, DIM)], 1), captions.lengths)
    torch.testing.assert_close(module(padded), module(captions))
    torch.testing.assert_close(module(captions.rows(slice(1, 2))), module(captions)[1:2])


@pytest.mark.parametrize("is_training", [True, False])
def test_images_with_another_number_of_regions_are_an_error(is_training):
    with pytest.raises(DataError, match="4 regions, but this model normalises 5"):
        whole(places=5).train(is_training)(sequences([4, 4]))


def test_a_single_vector_is_one_position():
    encoder = LinearEncoder(3, DIM)
    features = torch.randn(4, 3)
    encoded = encoder(Padded(features))
    assert encoded.lengths.tolist() == [1] * 4
    torch.testing.assert_close(encoded.values[:, 0], encoder.linear(features))


def test_positions_have_length_1_behind_the_whole():
    encoder = LocalEncoder(LinearEncoder(3, DIM), whole())
    items = Padded(torch.randn(2, 4, 3), torch.tensor([4, 2]))
    encoded = encoder(items)
    assert encoded.values.shape == (2, 5, DIM)
    assert encoded.lengths.tolist() == [5, 3]
    torch.testing.assert_close(encoded.values[encoded.mask].norm(dim=1), torch.ones(8))
    positions = Padded(encoded.values[:, 1:], items.lengths)
    torch.testing.assert_close(encoded.values[:, 0], encoder.whole(positions))


def test_dropout_acts_in_training_only():
    images = sequences([5, 5])
    module = whole(places=5, dropout=0.4)
    assert not torch.equal(module(images), module(images))
    module.eval()
    assert torch.equal(module(images), module(images))

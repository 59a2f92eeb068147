import pytest
import torch

from truepair.scoring.encodings import encode_captions, encode_images, evaluating


@pytest.fixture
def model(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_images_and_captions_come_in_their_own_order_as_if_encoded_alone(model, world, batch_size):
    images, captions = encode_images(model, world.images, batch_size), encode_captions(model, world, batch_size)
    assert not model.training
    with torch.no_grad():
        for row in (0, 7, 19):
            alone = model.image_encoder(world.images.take(torch.tensor([row]))).values[0]
            torch.testing.assert_close(images.values[row], alone, rtol=1e-5, atol=1e-6)
        for row in (0, 7, 38, 39):
            alone = model.text_encoder(world.caption_inputs.take(torch.tensor([row]))).values[0]
            torch.testing.assert_close(captions.values[row], alone, rtol=1e-5, atol=1e-6)


def test_sequences_keep_their_lengths(model, world):
    """Similarities that look at words, not at one vector a caption, need encodings of unlike length."""
    model.text_encoder = model.text_encoder.encoder
    together = encode_captions(model, world, 7)
    for row in range(40):
        alone = model.text_encoder(world.caption_inputs.take(torch.tensor([row])))
        assert together.lengths[row] == alone.lengths[0]
        torch.testing.assert_close(together.values[row, : alone.lengths[0]], alone.values[0].detach())


def test_encodings_take_no_part_in_training(model, world):
    assert not encode_images(model, world.images).values.requires_grad
    assert not encode_captions(model, world).values.requires_grad


def test_every_module_gets_its_own_mode_back_even_after_an_error(model):
    model.train()
    model.text_encoder.eval()
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2

    def failing():
        with evaluating([model]):
            assert not any(module.training for module in model.modules())
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        failing()
    assert [module.training for module in model.modules()] == before

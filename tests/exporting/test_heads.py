"""Dense layers that are the same function as a head."""

import pytest
import torch

from truepair.data.batch import Padded
from truepair.encoders.codes import GaussianHead, SharedEncoder
from truepair.encoders.projection import VectorEncoder
from truepair.exporting.heads import dense_head
from truepair.layers import unit_length


def trained(encoder):
    """Statistics and weights other than those of a fresh one."""
    torch.manual_seed(1)
    for weight in encoder.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    for _ in range(3):
        encoder(Padded(torch.randn(16, 6)))
        if isinstance(encoder, SharedEncoder):
            encoder.codes(Padded(torch.randn(16, 6)))
    return encoder.eval()


def applied(head, vectors):
    if head.scaling != "none":
        values = vectors.sign() * vectors.abs().sqrt() if head.scaling == "root" else vectors
        vectors = unit_length(values)
    for layer in head.layers:
        vectors = vectors @ layer.weight.T + layer.bias
        vectors = vectors.relu() if layer.is_relu else vectors
    return unit_length(vectors)


@pytest.mark.parametrize(("codes", "is_residual"), [(None, False), (5, True), (4, True), (4, False)])
@pytest.mark.parametrize("kind", ["plain", "batch_norm"])
@pytest.mark.parametrize("scaling", ["none", "length", "root"])
def test_layers_give_what_the_head_gives(kind, scaling, codes, is_residual):
    encoder = VectorEncoder(6, 5, input_dropout=0.1, kind=kind, scaling=scaling)
    if codes is not None:
        encoder = SharedEncoder(encoder, GaussianHead(5, 5, codes, residual=is_residual))
    encoder = trained(encoder)
    vectors = torch.randn(7, 6)
    torch.testing.assert_close(applied(dense_head(encoder), vectors), encoder(Padded(vectors)).values)
    assert len(dense_head(encoder).layers) == (2 if codes is None else 4)

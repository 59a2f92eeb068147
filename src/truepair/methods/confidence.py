"""From a trained model to a belief in each pair: a mixture over similarities in evaluation mode."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.loader import Loaders
from truepair.mixtures import fit_gaussian_mixture
from truepair.model import MatchingModel


@torch.no_grad()
def pair_similarities(model: MatchingModel, loaders: Loaders) -> Float[Tensor, " pairs"]:
    """The model's similarity of every training pair, in evaluation mode; the model's mode is left as it was."""
    was_training = model.training
    model.eval()
    scores = torch.empty(len(loaders.pairs))
    for batch in loaders.in_order():
        scores[batch.pair.cpu()] = model.paired(batch).float().cpu()
    model.train(was_training)
    return scores


def similarity_posterior(model: MatchingModel, loaders: Loaders) -> Float[Tensor, " pairs"]:
    """Belief that each pair matches: posterior of the upper component of two Gaussians over similarities."""
    scores = pair_similarities(model, loaders)
    return fit_gaussian_mixture(scores).posterior(scores)

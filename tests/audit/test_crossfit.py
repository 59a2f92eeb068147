from dataclasses import replace

import torch

from truepair.audit.crossfit import at_most, trained, trained_without
from truepair.config import TeacherConfig

SHORT = TeacherConfig(fold_epochs=2, epochs=1)


def test_models_of_a_fold_do_not_depend_on_the_pairs_that_they_score(noisy_world, quick):
    config = replace(quick, folds=2, method=SHORT)
    first = trained(noisy_world, None, config).folds
    scored = first[0].pairs
    wrecked = noisy_world.image_of_caption.clone()
    wrecked[scored] = wrecked[scored].roll(1)
    second = trained(replace(noisy_world, image_of_caption=wrecked), None, config).folds
    assert torch.equal(second[0].pairs, scored)
    for a, b in zip(first[0].models[0].parameters(), second[0].models[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_global_random_state_is_left_as_it_was(noisy_world, quick):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(noisy_world, None, replace(quick, folds=2, method=SHORT))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_networks_of_all_trainings_score(noisy_world, quick):
    models = trained(noisy_world, None, replace(quick, folds=2, repetitions=2, method=SHORT))
    assert [len(fold.models) for fold in models.folds] == [2, 2]
    assert len(models.of_all) == 2
    assert not any(model.training for fold in models.folds for model in fold.models)
    first, second = (model.state_dict() for model in models.of_all)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_learns_from_no_image_of_its_fold_and_all_pairs_are_scored_where_some_are_learned(noisy_world, quick):
    models = trained(noisy_world, None, replace(quick, folds=2, most_learned=100, method=SHORT))
    assert sorted(torch.cat([fold.learned for fold in models.folds]).unique().tolist()) != list(range(len(noisy_world)))
    *folds, rest = models.folds
    assert len(torch.cat([fold.learned for fold in folds])) == len(rest.learned) == 100
    assert rest.models == models.of_all
    assert not models.learned_all
    assert sorted(torch.cat([fold.pairs for fold in models.folds]).tolist()) == list(range(len(noisy_world)))
    for fold in models.folds:
        images = set(noisy_world.image_of_caption[fold.pairs].tolist())
        assert not images & set(noisy_world.image_of_caption[fold.learned].tolist())


def test_the_model_that_looks_for_partners_learned_none_of_the_pairs_asked_for(noisy_world, quick):
    asked = torch.arange(50)
    wrecked = noisy_world.image_of_caption.clone()
    wrecked[asked] = wrecked[asked].roll(1)
    config = replace(quick, method=replace(SHORT, start="folds"))  # of networks that this model does not have
    first = trained_without(asked, noisy_world, None, config)
    second = trained_without(asked, replace(noisy_world, image_of_caption=wrecked), None, config)
    for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_of_too_many_pairs_a_random_part_is_learned_in_their_order():
    pairs = torch.arange(0, 1000, 2)
    assert at_most(pairs, 500, seed=0) is pairs
    some = at_most(pairs, 50, seed=0)
    assert len(set(some.tolist())) == 50
    assert set(some.tolist()) <= set(pairs.tolist())
    assert some.tolist() == sorted(some.tolist())
    assert not torch.equal(some, at_most(pairs, 50, seed=1))

"""The miniature corpora are in the layouts that their program promises."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from truepair.data.noise import read_noise_index
from truepair.data.precomputed import load_precomputed

TOOL = Path(__file__).parents[2] / "tools" / "miniature_corpora.py"


@pytest.fixture(scope="module", params=["images", "captions"])
def miniature(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"rows_{request.param}")
    runpy.run_path(str(TOOL))["write_miniatures"](folder, request.param)
    return folder, request.param


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_features_captions_and_ids_line_up_as_released(miniature):
    folder, rows = miniature
    for corpus, splits in {"f30k": ("train", "dev", "test"), "coco": ("train", "dev", "test", "testall")}.items():
        for split in splits:
            here = folder / f"{corpus}_precomp"
            features = np.load(here / f"{split}_ims.npy", allow_pickle=False)
            captions, ids = lines(here / f"{split}_caps.txt"), lines(here / f"{split}_ids.txt")
            assert features.dtype == np.float32
            assert features.shape[1:] == (4, 64)
            assert len(features) == len(ids)
            is_repeated = rows == "captions" and split != "train"
            assert len(captions) == len(features) * (1 if is_repeated else 5)
            assert len(set(ids)) * 5 == len(captions)


def test_cc152k_has_a_table_of_image_ids_and_captions(miniature):
    here = miniature[0] / "cc152k_precomp"
    for split in ("train", "dev", "test"):
        table = [line.split("\t") for line in lines(here / f"{split}_caps.tsv")]
        assert [name for name, _ in table] == lines(here / f"{split}_ids.txt")
        assert len(np.load(here / f"{split}_ims.npy", allow_pickle=False)) == len(table)


def test_cocos_test_split_is_the_first_fifth_of_testall(miniature):
    here = miniature[0] / "coco_precomp"
    test, testall = (load_precomputed(here, split, captions_per_image=5) for split in ("test", "testall"))
    assert len(test) * 5 == len(testall)
    assert list(test.captions) == list(testall.captions[: len(test)])


def test_vocabularies_are_the_fields_without_a_mask(miniature):
    for corpus in ("f30k", "coco", "cc152k"):
        content = json.loads((miniature[0] / "vocab" / f"{corpus}_precomp_vocab.json").read_text(encoding="utf-8"))
        assert set(content) == {"word2idx", "idx2word", "idx"}
        assert "<mask>" not in content["word2idx"]
        assert content["idx"] == len(content["word2idx"])
        assert all(content["word2idx"][word] == int(id_) for id_, word in content["idx2word"].items())


@pytest.mark.parametrize("corpus", ["f30k", "coco"])
def test_noise_indices_of_both_conventions_have_the_rate_of_their_name(miniature, corpus):
    folder, _ = miniature
    train = load_precomputed(folder / f"{corpus}_precomp", "train", captions_per_image=5)
    for convention in ("per_caption", "per_image"):
        path = folder / "noise_index" / f"{corpus}_precomp_0.4_{convention}.npy"
        assert read_noise_index(path, train, convention=convention).realised_noise_rate == pytest.approx(0.4)


def test_it_is_small(miniature):
    assert sum(path.stat().st_size for path in miniature[0].rglob("*") if path.is_file()) < 2e6

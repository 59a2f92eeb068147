import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truepair.audit.preview import preview
from truepair.config import AuditConfig, EmbedConfig

CLIP = EmbedConfig(image_encoder="some/clip", text_encoder="some/clip")


@pytest.fixture
def part(tmp_path):
    """A part of a feature store with 300 pairs of one space, of which the first 60 have gone round."""
    random = np.random.default_rng(0)
    images = random.standard_normal((300, 16)).astype(np.float16)
    captions = (images + 0.6 * random.standard_normal(images.shape)).astype(np.float16)
    captions[:60] = np.roll(captions[:60], 1, axis=0)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "captions.npy", captions)
    names = [f"image-{row}" for row in range(300)]
    pq.write_table(pa.table({"image_id": names}), tmp_path / "images.parquet")
    rows = {"caption_id": [f"c{row}" for row in range(300)], "caption": ["a dog"] * 300, "image": list(range(300))}
    pq.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    return tmp_path


def test_the_first_pairs_are_previewed_by_their_embeddings_alone(part):
    said = preview(part, AuditConfig(device="cpu"), CLIP)
    assert said.startswith("preview of the first 300 pairs, by their embeddings alone: about ")
    assert 12 < float(said.partition("about ")[2].partition("%")[0]) < 28
    suspects = [int(word.split(" ")[0][1:]) for word in said.partition("suspicious are ")[2].split("; ")]
    assert all(row < 60 for row in suspects)


def test_nothing_is_said_where_embeddings_cannot_be_compared(part):
    assert preview(part, AuditConfig(), EmbedConfig(text_encoder="none")) is None
    np.save(part / "captions.npy", np.zeros((300, 3), np.float16))
    assert preview(part, AuditConfig(), CLIP) is None

"""A description by which any tool makes the pixels that an encoder's own reader makes."""

import json

import numpy as np
import pytest
from embedding_samples import picture

from truepair.errors import ConfigError
from truepair.exporting.preprocessing import pixels_of, preprocessing_of
from truepair.pretrained.pictures import picture_reader

pytest.importorskip("transformers", reason="needs the extra hf")
from tiny_networks import save_family

PICTURES = [picture(0, 97, 64), picture(1, 40, 90), picture(2, 500, 300)]


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "metaclip_2"])
def test_a_processor_is_described(tmp_path, kind):
    name = save_family(tmp_path, kind)
    how = json.loads(json.dumps(preprocessing_of(name, PICTURES)))
    for one in PICTURES:
        np.testing.assert_allclose(pixels_of(how, one), picture_reader(name)(one), atol=1e-5)


def test_the_middle_of_lite0_is_described():
    how = preprocessing_of("efficientnet-lite0", PICTURES)
    assert (how["side"], how["crop_share"]) == (224, 0.875)


@pytest.mark.parametrize("other", [{"do_resize": False}, {"resample": 0}])
def test_a_processor_that_does_something_else_is_refused(tmp_path, other):
    name = save_family(tmp_path, "metaclip_2")
    path = tmp_path / "preprocessor_config.json"
    options = json.loads(path.read_text())
    path.write_text(json.dumps(options | other))
    with pytest.raises(ConfigError, match=r"does more than resizing, cutting out the middle and scaling.*--to hf"):
        preprocessing_of(name, PICTURES)

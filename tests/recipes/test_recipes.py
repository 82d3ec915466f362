"""Recipes: TOML to frozen dataclasses and back, and whatever can be wrong with them."""

import dataclasses
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.errors import RecipeError
from flyweight.quantization import INITIALIZATIONS
from flyweight.recipes import (
    PruningConfig,
    Recipe,
    QuantizationConfig,
    load_recipe,
)
from flyweight.training import PROGRESSIVE_SIZES, TrainingConfig

SHIPPED = sorted(
    entry.name.removesuffix(".toml")
    for entry in resources.files("flyweight.recipes").iterdir()
    if entry.name.endswith(".toml")
)

fractions = st.floats(0, 1, exclude_max=True)
trainings = st.builds(
    TrainingConfig,
    epochs=st.integers(0, 300),
    batch_size=st.integers(1, 4096),
    learning_rate=st.floats(1e-6, 10),
    warmup=fractions,
    momentum=fractions,
    weight_decay=st.floats(0, 1),
    label_smoothing=fractions,
    ema_decay=fractions,
    image_sizes=st.sampled_from([((32, 1.0),), PROGRESSIVE_SIZES]),
    distillation=fractions,
    temperature=st.floats(0.1, 20),
    precision=st.sampled_from(["auto", "fp32", "bf16"]),
)
recipes = st.builds(
    Recipe,
    name=st.text(st.characters(codec="utf-8"), max_size=20),
    description=st.text(st.characters(codec="utf-8"), max_size=20),
    pruning=st.builds(
        PruningConfig,
        sparsity=fractions,
        ramp=fractions,
        interval=st.integers(1, 99),
        recovery=st.booleans(),
        layers=st.lists(st.text(max_size=5), max_size=3).map(tuple),
        training=trainings,
    ),
    sharing=st.builds(QuantizationConfig, scheme=st.just("ternary"), threshold=fractions)
    | st.builds(
        QuantizationConfig,
        scheme=st.just("uniform"),
        per_channel=st.booleans(),
        power_of_two=st.booleans(),
        zero_level=st.booleans(),
    )
    | st.builds(
        QuantizationConfig,
        bits=st.integers(1, 8),
        allocation=st.sampled_from(["equal", "size"]),
        interval=st.integers(1, 99),
        settle=fractions,
        init=st.sampled_from(INITIALIZATIONS),
        keep=st.lists(st.text(max_size=5), max_size=3).map(tuple),
        storage=st.sampled_from(["float16", "float32"]),
        training=trainings,
    ),
    fold_batch_norm=st.booleans(),
    dense=st.sampled_from(["bfloat16", "float16", "float32"]),
    dense_mantissa_bits=st.integers(0, 7),
)


@given(recipes)
def test_toml_and_back(recipe):
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_whole(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.pruning.sparsity > 0.5
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_quick_is_shipped():
    assert "quick" in SHIPPED


def test_a_file_says_only_what_differs(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "name = 'mine'\n[pruning]\nsparsity = 0\nlayers = ['conv*', '*.weight']\n"
        "[sharing.training]\nepochs = 9\nimage_sizes = [[16, 0.5], [32, 0.5]]\n"
    )
    default = Recipe()
    expected = dataclasses.replace(
        default,
        name="mine",
        pruning=dataclasses.replace(default.pruning, sparsity=0.0, layers=("conv*", "*.weight")),
        sharing=dataclasses.replace(
            default.sharing,
            training=dataclasses.replace(
                default.sharing.training, epochs=9, image_sizes=((16, 0.5), (32, 0.5))
            ),
        ),
    )
    for name in (path, str(path)):
        assert load_recipe(name) == expected
        assert isinstance(load_recipe(name).pruning.sparsity, float)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("speed = 1", "r has the unknown key 'speed'; known here are name,"),
        ("[pruning]\nsparcity = 0.1", "'pruning.sparcity'; known here are sparsity,"),
        ("[pruning.training]\nlr = 0.1", "'pruning.training.lr'"),
        ("name = ", "r is not valid TOML"),
        ("a = 1\na = 2", "r is not valid TOML"),
        ("name = " + "[" * 9999, "r is not valid TOML"),
        ("name = " + "1" * 9999, "r is not valid TOML"),
        ("name = 3", "r: name is a string; found 3"),
        ("fold_batch_norm = 1", "fold_batch_norm is true or false; found 1"),
        ("dense = 'float8'", "dense is 'bfloat16' or 'float16' or 'float32'; found 'float8'"),
        (
            "dense = 'bfloat16'\ndense_mantissa_bits = 8",
            "r: dense_mantissa_bits is from 1 to 7 for bfloat16, or 0 for all of them; found 8",
        ),
        ("dense_mantissa_bits = 11", "is from 1 to 10 for float16, or 0 .*found 11"),
        ("dense = 'float32'\ndense_mantissa_bits = 24", "is from 1 to 23 for float32.*found 24"),
        ("dense_mantissa_bits = -1", "dense_mantissa_bits is from 1 to 10 .*found -1"),
        ("dense_mantissa_bits = 5.5", "dense_mantissa_bits is a whole number; found 5.5"),
        ("dense_mantissa_bits = true", "dense_mantissa_bits is a whole number; found True"),
        ("pruning = 0.5", r"pruning is a table, \[pruning\]; found 0.5"),
        ("[pruning]\nsparsity = '0.5'", "pruning.sparsity is a number; found '0.5'"),
        ("[pruning]\nsparsity = true", "pruning.sparsity is a number; found True"),
        ("[pruning]\nsparsity = 1.0", "pruning.sparsity is a fraction from 0 .*found 1.0"),
        ("[pruning]\nsparsity = -0.1", "pruning.sparsity is a fraction"),
        ("[pruning]\nsparsity = nan", "pruning.sparsity is a fraction"),
        ("[pruning]\nramp = 1.1", "pruning.ramp"),
        ("[pruning]\ninterval = 0", "pruning.interval is at least 1"),
        ("[pruning]\ninterval = 1.5", "pruning.interval is a whole number; found 1.5"),
        ("[pruning]\nlayers = 'conv*'", r"pruning.layers is a list; found 'conv\*'"),
        ("[pruning]\nlayers = [1]", "pruning.layers is a string; found 1"),
        ("[sharing]\nbits = 0", "sharing.bits is from 1 to 8; found 0"),
        ("[sharing]\nbits = 9", "sharing.bits is from 1 to 8; found 9"),
        ("[sharing]\nscheme = 'nf4'", "sharing.scheme is 'shared' or 'asymmetric'"),
        ("[sharing]\nscheme = 'narrow'\nbits = 1", "bits of 'narrow' is from 2 to 8; found 1"),
        ("[sharing]\nfirst_bits = 3", "first_bits is 0, or from bits = 4 to 8; found 3"),
        ("[sharing]\nfirst_bits = 9", "first_bits is 0, or from bits = 4 to 8; found 9"),
        (
            "[sharing]\nfirst_bits = 6\n[sharing.training]\nema_decay = 0.9",
            "ema_decay is 0 with first_bits, since values of fewer and fewer bits",
        ),
        ("[sharing]\nper_channel = true", "per_channel is not for the scheme 'shared'"),
        (
            "[sharing]\nscheme = 'ternary'\nfirst_bits = 6",
            "first_bits is not for the scheme 'ternary', which has its own .*; found 6",
        ),
        ("[sharing]\nscheme = 'binary'\nfirst_bits = 6", "first_bits is not for .*; found 6"),
        (
            "[sharing]\nscheme = 'binary'\nallocation = 'size'",
            "allocation is not for the scheme 'binary', which has its own .*; found 'size'",
        ),
        ("[sharing]\nscheme = 'ternary'\nallocation = 'size'", "allocation is not for .*'size'"),
        ("[sharing]\nfirst_bits = 6\nsettle = 0", "settle is above 0 with first_bits; found 0"),
        ("[sharing]\npower_of_two = true", "power_of_two is not for .* 'shared'; found true"),
        (
            "[sharing]\nscheme = 'learned-step'\npower_of_two = true",
            "power_of_two is not for the scheme 'learned-step'; found true",
        ),
        (
            "[sharing]\nscheme = 'narrow'\nzero_level = true",
            "zero_level is not for the scheme 'narrow'; found true",
        ),
        ("[sharing]\nscheme = 'narrow'\npower_of_two = 1", "power_of_two is true or false; found"),
        (
            "[sharing]\nthreshold = 0.1",
            "threshold is for the scheme 'ternary', not for 'shared'; found 0.1",
        ),
        ("[sharing]\nthreshold = 1.0", "threshold is a fraction from 0 up to 1; found 1.0"),
        ("[sharing]\nallocation = 'fair'", "sharing.allocation is 'equal' or 'size'"),
        ("[sharing]\ninterval = 0", "sharing.interval is at least 1"),
        ("[sharing]\nsettle = 1.1", "sharing.settle is a fraction from 0 to 1; found 1.1"),
        ("[sharing]\ninit = 'best'", "sharing.init is 'linear' or 'density' or 'random'"),
        ("[sharing]\ninit = ['linear']", "sharing.init is 'linear' or 'density' or 'random'"),
        ("[sharing]\nstorage = 'int8'", "sharing.storage is 'float16' or 'float32'"),
        (
            "[sharing.training]\nepochs = -1",
            r"r, \[sharing.training\]: training.epochs = -1 is out",
        ),
        ("[pruning.training]\nema_decay = 1", "training.ema_decay = 1.0 is out of range"),
        ("[sharing.training]\nlearning_rate = nan", "training.learning_rate = nan"),
        ("[sharing.training]\nimage_sizes = [[32]]", "image_sizes is a list"),
        ("[sharing.training]\nimage_sizes = [[32, 0.5]]", "image_sizes .* out of range"),
    ],
)
def test_what_is_wrong_is_said(toml, said):
    with pytest.raises(RecipeError, match=said):
        Recipe.from_toml(toml, where="r")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PruningConfig(sparsity=1.0),
        lambda: PruningConfig(ramp=-0.1),
        lambda: PruningConfig(interval=0),
        lambda: QuantizationConfig(bits=9),
        lambda: QuantizationConfig(scheme="nf4"),  # type: ignore[arg-type]
        lambda: QuantizationConfig(allocation="fair"),  # type: ignore[arg-type]
        lambda: QuantizationConfig(interval=0),
        lambda: QuantizationConfig(settle=-0.1),
        lambda: QuantizationConfig(init="best"),  # type: ignore[arg-type]
        lambda: QuantizationConfig(storage="int8"),  # type: ignore[arg-type]
        lambda: Recipe(dense="int8"),  # type: ignore[arg-type]
        lambda: Recipe(dense_mantissa_bits=11),
    ],
)
def test_impossible_values_are_refused_in_python_too(wrong):
    with pytest.raises(RecipeError, match="found"):
        wrong()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PruningConfig(interval=2.5), "pruning.interval is a whole number; found 2.5"),
        (lambda: PruningConfig(interval=True), "pruning.interval is a whole number; found True"),
        (lambda: PruningConfig(sparsity="0.5"), "pruning.sparsity is a number; found '0.5'"),
        (lambda: PruningConfig(layers="0.*"), r"pruning.layers is a list; found '0\.\*'"),
        (lambda: PruningConfig(types="Linear"), "pruning.types is a list; found 'Linear'"),
        (lambda: PruningConfig(keep=(3,)), "pruning.keep is a string; found 3"),
        (lambda: PruningConfig(pattern=24), "pruning.pattern is a string; found 24"),
        (lambda: PruningConfig(overrides={"*": "1"}), "is a number; found '1'"),
        (lambda: PruningConfig(overrides=[]), r"pruning.overrides is a table; found \[\]"),
        (lambda: PruningConfig(training=3), "pruning.training is a TrainingConfig; found 3"),
        (lambda: QuantizationConfig(bits=2.0), "sharing.bits is a whole number; found 2.0"),
        (lambda: QuantizationConfig(keep="fc*"), r"sharing.keep is a list; found 'fc\*'"),
    ],
)
def test_values_of_another_type_are_refused_in_python_too(make, said):
    with pytest.raises(RecipeError, match=said):
        make()


def test_lists_and_numbers_of_numpy_are_as_good():
    given = PruningConfig(
        sparsity=np.float32(0.5), interval=np.int64(3), layers=["*"], overrides={"a": 1}
    )
    plain = PruningConfig(sparsity=0.5, interval=3, layers=("*",), overrides={"a": 1.0})
    assert given == plain
    assert repr(given) == repr(plain)
    assert Recipe.from_toml(Recipe(pruning=given).to_toml()).pruning == plain
    sharing = QuantizationConfig(bits=np.int64(3), settle=1, keep=["0.*"])
    assert repr(sharing) == repr(QuantizationConfig(bits=3, settle=1.0, keep=("0.*",)))
    assert Recipe.from_toml(Recipe(sharing=sharing).to_toml()).sharing == sharing
    whole = Recipe(dense="bfloat16", dense_mantissa_bits=np.int64(5))
    assert Recipe.from_toml(whole.to_toml()) == whole


def test_a_recipe_written_before_it_had_these_settings_is_still_one():
    recipe = Recipe(sharing=QuantizationConfig(scheme="uniform", per_channel=True))
    text = recipe.to_toml()
    new = [line for line in text.splitlines() if line.startswith(("power_of_two", "zero_level"))]
    assert len(new) == 2
    for line in new:
        text = text.replace(line + "\n", "")
    assert Recipe.from_toml(text) == recipe


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().name = "other"  # type: ignore[misc]


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"there is no recipe 'nosuch': .* one of .*quick"):
        load_recipe("nosuch")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"binary\.toml cannot be read"):
        load_recipe(tmp_path / "binary.toml")


def test_a_tensor_with_a_quarter_of_the_weights_gets_one_bit_more():
    sizes = {"large": 36_864, "half": 18_432, "quarter": 9_216, "tiny": 1, "none": 0}
    by_size = QuantizationConfig(bits=3, allocation="size").bits_of(sizes)
    assert by_size == {"large": 3, "half": 3, "quarter": 4, "tiny": 8, "none": 8}
    assert set(QuantizationConfig(bits=3).bits_of(sizes).values()) == {3}
    assert QuantizationConfig(allocation="size").bits_of({}) == {}


def test_a_recipe_or_a_part_of_one_is_taken_as_it_is():
    whole = load_recipe("quick")
    assert load_recipe(whole) is whole
    assert load_recipe(whole.pruning) == Recipe(pruning=whole.pruning)
    assert load_recipe(whole.sharing) == Recipe(sharing=whole.sharing)

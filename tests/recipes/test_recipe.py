"""Recipes: TOML to frozen dataclasses and back, and every way in which one can be wrong."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.errors import RecipeError
from flyweight.pruning import PruningConfig
from flyweight.quantization import INITIALIZATIONS, PostTrainingConfig, QuantizationConfig
from flyweight.recipes import Recipe, load_recipe, recipe_names
from flyweight.training import TrainingConfig

fractions = st.floats(0, 1, exclude_max=True)
globs = st.lists(st.text(max_size=5), max_size=3).map(tuple)
trainings = st.builds(
    TrainingConfig,
    epochs=st.integers(0, 300),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    learning_rate=st.floats(1e-6, 10),
    schedule=st.sampled_from(["cosine", "constant", "step"]),
    warmup=fractions,
    milestones=st.lists(fractions, unique=True, max_size=4).map(sorted),
    momentum=fractions,
    weight_decay=st.floats(0, 1),
    label_smoothing=fractions,
    gradient_clip=st.floats(0, 9),
    accumulation_steps=st.integers(1, 9),
    distillation=fractions,
    temperature=st.floats(0.1, 20),
    precision=st.sampled_from(["auto", "fp32", "bf16"]),
)
prunings = st.builds(
    PruningConfig,
    sparsity=fractions,
    ramp=fractions,
    interval=st.integers(1, 99),
    allow_regrowth=st.booleans(),
    include=globs,
    overrides=st.dictionaries(st.text(max_size=5), fractions, max_size=2),
)
quantizations = (
    st.builds(QuantizationConfig, method=st.just("ternary"), threshold=fractions)
    | st.builds(
        QuantizationConfig,
        method=st.just("uniform"),
        per_channel=st.booleans(),
        power_of_two=st.booleans(),
        zero_level=st.booleans(),
    )
    | st.builds(
        QuantizationConfig,
        bits=st.integers(1, 8),
        allocation=st.sampled_from(["equal", "size"]),
        assignment_interval=st.integers(1, 99),
        assignment_until=fractions,
        init=st.sampled_from(INITIALIZATIONS),
        exclude=globs,
        bits_overrides=st.dictionaries(st.text(max_size=5), st.integers(1, 8), max_size=2),
        level_dtype=st.sampled_from(["float16", "float32"]),
    )
)
stages = (
    st.fixed_dictionaries({"quantization": quantizations})
    | st.fixed_dictionaries(
        {"post_training": st.builds(PostTrainingConfig, loss_per_bit=st.floats(1e-9, 1))}
    )
    | st.just({})
)
recipes = st.builds(
    lambda quantized, **settings: Recipe(**quantized, **settings),
    stages,
    name=st.text(st.characters(codec="utf-8"), max_size=20),
    description=st.text(st.characters(codec="utf-8"), max_size=20),
    pruning=st.none() | prunings,
    retraining=trainings,
    fine_tuning=trainings,
    fold_batch_norm=st.booleans(),
    float_dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
    float_mantissa_bits=st.integers(0, 7),
)


@given(recipes)
def test_recipe_round_trips_through_toml(recipe):
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_shipped_recipes_have_their_stages():
    assert {"quick", "full", "post-training"} <= set(recipe_names())
    assert load_recipe("quick").epochs == 8
    assert load_recipe("full").epochs == 20
    post_training = load_recipe("post-training")
    assert post_training.epochs == 0
    assert post_training.pruning is post_training.quantization is None


def test_load_recipe_reads_a_file_that_has_only_what_differs(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "name = 'mine'\n[pruning]\nsparsity = 0\ninclude = ['conv*', '*.weight']\n"
        "[retraining]\nepochs = 9\nmilestones = [0.3, 1]\n"
    )
    expected = Recipe(
        name="mine",
        pruning=PruningConfig(sparsity=0.0, include=("conv*", "*.weight")),
        retraining=dataclasses.replace(Recipe().retraining, epochs=9, milestones=(0.3, 1.0)),
    )
    for name in (path, str(path)):
        found = load_recipe(name)
        assert found.pruning == expected.pruning
        assert found.retraining.epochs == 9
        assert found.retraining.milestones == (0.3, 1.0)
        assert isinstance(found.pruning.sparsity, float)


def test_tables_start_from_the_defaults_of_the_recipe():
    found = Recipe.from_toml("[pruning]\n[retraining]\nlearning_rate = 0.5\n")
    assert found.retraining == dataclasses.replace(Recipe().retraining, learning_rate=0.5)


WRONG = [
    ("speed = 1", "r: the key 'speed' is unknown; known here are name,"),
    ("[pruning]\nsparcity = 0.1", "'pruning.sparcity' is unknown; known here are sparsity,"),
    ("[retraining]\nlr = 0.1", "'retraining.lr' is unknown"),
    ("name = ", "r is not valid TOML"),
    ("a = 1\na = 2", "r is not valid TOML"),
    ("name = " + "[" * 9999, "r is not valid TOML"),
    ("name = " + "1" * 9999, "r is not valid TOML"),
    ("name = 3", "r: name: expected `str`, got `int`; found 3"),
    ("fold_batch_norm = 1", "fold_batch_norm: expected `bool`, got `int`; found 1"),
    ("float_dtype = 'float8'", "float_dtype: expected one of bfloat16, float16, float32; found"),
    ("float_dtype = 'bfloat16'\nfloat_mantissa_bits = 8", "from 1 to 7 for bfloat16.*found 8"),
    ("float_mantissa_bits = 11", "is from 1 to 10 for float16, or 0 .*found 11"),
    ("float_mantissa_bits = -1", "float_mantissa_bits: expected `int` >= 0; found -1"),
    ("float_mantissa_bits = true", "float_mantissa_bits: expected `int`, got `bool`"),
    ("pruning = 0.5", r"pruning is a table, \[pruning\]; found 0.5"),
    ("[pruning]\nsparsity = '0.5'", "pruning.sparsity: expected `float`, got `str`; found '0.5'"),
    ("[pruning]\nsparsity = true", "pruning.sparsity: expected `float`, got `bool`"),
    ("[pruning]\nsparsity = 1.0", "pruning.sparsity: expected `float` < 1.0; found 1.0"),
    ("[pruning]\nsparsity = -0.1", "pruning.sparsity: expected `float` >= 0.0; found -0.1"),
    ("[pruning]\nsparsity = nan", "pruning.sparsity: expected `float` >= 0.0; found nan"),
    ("[pruning]\nsparsity = 1" + "0" * 400, "pruning.sparsity: number out of range"),
    ("[pruning]\nramp = 1.1", "pruning.ramp: expected `float` <= 1.0"),
    ("[pruning]\ninterval = 0", "pruning.interval: expected `int` >= 1"),
    ("[pruning]\ninterval = 1.5", "pruning.interval: expected `int`, got `float`; found 1.5"),
    ("[pruning]\ninclude = 'conv*'", r"pruning.include: expected `array`, got `str`; found 'conv"),
    ("[pruning]\ninclude = [1]", "pruning.include: expected `str`, got `int`"),
    ("[pruning]\ncriterion = 'size'", "pruning.criterion.*magnitude.*found 'size'"),
    ("[pruning]\npattern = '2:4'", "pattern '2:4' needs a sparsity of 0.5 .*found 0.75"),
    ("[quantization]\nbits = 0", "quantization.bits: expected `int` >= 1; found 0"),
    ("[quantization]\nbits = 9", "quantization.bits: expected `int` <= 8; found 9"),
    ("[quantization]\nmethod = 'nf4'", "quantization.method: expected one of kmeans, uniform"),
    ("[quantization]\nmethod = 'symmetric'\nbits = 1", "bits of 'symmetric' is from 2 to 8"),
    ("[quantization]\nstart_bits = 3", "start_bits is 0, or from bits = 4 to 8; found 3"),
    ("[quantization]\nstart_bits = 6\nassignment_until = 0", "above 0 with start_bits; found 0"),
    ("[quantization]\nstart_bits = 6\n[fine_tuning]\nema_decay = 0.9", "ema_decay is 0 with"),
    ("[quantization]\nper_channel = true", "per_channel is not for the method 'kmeans'"),
    ("[quantization]\nmethod = 'ternary'\nstart_bits = 6", "start_bits is not for .*; found 6"),
    ("[quantization]\nmethod = 'binary'\nallocation = 'size'", "allocation is not for .*'size'"),
    ("[quantization]\npower_of_two = true", "power_of_two is not for the method 'kmeans'"),
    ("[quantization]\nmethod = 'symmetric'\nzero_level = true", "zero_level is not for the meth"),
    ("[quantization]\nthreshold = 0.1", "threshold is for the method 'ternary', not for 'kmean"),
    ("[quantization]\nmethod = 'binary'\nimportance = 'fisher'", "importance is for the method"),
    ("[quantization]\ninit = 'best'", "quantization.init: expected one of linear, density"),
    ("[quantization]\ninit = ['linear']", "quantization.init"),
    ("[quantization.bits_overrides]\n'*' = 9", "quantization.bits_overrides: expected `int` <= 8"),
    ("[fine_tuning]\nepochs = -1", "training.epochs: expected `int` >= 0; found -1"),
    ("[fine_tuning]\nlearning_rate = nan", "training.learning_rate: expected `float` > 0"),
    ("[fine_tuning]\nmilestones = [0.5, 0.2]", "training.milestones rise"),
    ("[quantization]\n[post_training]", "of the method 'rate' only"),
    ("[post_training]\nloss_per_bit = 0", "post_training.loss_per_bit: expected `float` > 0"),
]


@pytest.mark.parametrize(("toml", "message"), WRONG, ids=range(len(WRONG)))
def test_from_toml_names_what_is_wrong(toml, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_toml(toml, where="r")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruningConfig(sparsity=1.0), "pruning.sparsity: expected `float` < 1.0"),
        (lambda: PruningConfig(interval=True), "pruning.interval: expected `int`, got `bool`"),
        (lambda: PruningConfig(include="0.*"), r"pruning.include: expected `array`.*found '0\.\*'"),
        (lambda: PruningConfig(layer_types="Linear"), "pruning.layer_types: expected `array`"),
        (lambda: PruningConfig(pattern=24), "pruning.pattern: expected `str`, got `int`; found 24"),
        (lambda: PruningConfig(overrides={"*": "1"}), "expected `float`, got `str`"),
        (lambda: PruningConfig(overrides=[]), "pruning.overrides: expected `object`"),
        (lambda: QuantizationConfig(bits=2.0), "quantization.bits: expected `int`, got `float`"),
        (lambda: Recipe(pruning=3), "pruning: expected a PruningConfig; found 3"),
        (lambda: Recipe(retraining=None), "retraining: expected a TrainingConfig; found None"),
        (lambda: TrainingConfig(epochs=print), "training.epochs: expected `int`, got `builtin"),
        (lambda: TrainingConfig(optimizer=print), "training.optimizer: expected"),
        (lambda: PruningConfig(pattern=str), "pruning.pattern: expected `str`, got `type`"),
        (lambda: Recipe(float_mantissa_bits=11), "is from 1 to 10 for float16"),
    ],
)
def test_configurations_check_their_values_in_python(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_configurations_take_lists_and_numbers_of_numpy():
    found = PruningConfig(
        sparsity=np.float32(0.5), interval=np.int64(3), include=["*"], overrides={"a": 1}
    )
    plain = PruningConfig(sparsity=0.5, interval=3, include=("*",), overrides={"a": 1.0})
    assert found == plain
    assert repr(found) == repr(plain)
    assert Recipe.from_toml(Recipe(pruning=found).to_toml()).pruning == plain


def test_load_recipe_reads_the_file_that_a_path_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="there is no recipe 'quick'; give a TOML file"):
        load_recipe(Path("quick"))
    Path("quick").write_text('name = "mine"\n[post_training]\n')
    assert load_recipe(Path("quick")).name == "mine"
    assert load_recipe("quick").name == "quick"


def test_to_toml_refuses_a_criterion_that_is_a_function():
    recipe = Recipe(pruning=PruningConfig(criterion=lambda weight: weight.abs()))
    with pytest.raises(RecipeError, match=r"pruning\.criterion is a function"):
        recipe.to_toml()


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().name = "other"  # type: ignore[misc]


def test_load_recipe_refuses_files_that_are_no_recipes(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"there is no recipe 'nosuch'; .* one of .*quick"):
        load_recipe("nosuch")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"binary\.toml cannot be read"):
        load_recipe(tmp_path / "binary.toml")


def test_bits_of_gives_a_tensor_with_a_quarter_of_the_weights_one_bit_more():
    sizes = {"large": 36_864, "half": 18_432, "quarter": 9_216, "tiny": 1, "none": 0}
    by_size = QuantizationConfig(bits=3, allocation="size").bits_of(sizes)
    assert by_size == {"large": 3, "half": 3, "quarter": 4, "tiny": 8, "none": 8}
    assert set(QuantizationConfig(bits=3).bits_of(sizes).values()) == {3}
    assert QuantizationConfig(allocation="size").bits_of({}) == {}


def test_load_recipe_takes_recipes_and_stages_as_they_are():
    whole = Recipe(pruning=PruningConfig(sparsity=0.7), quantization=QuantizationConfig(bits=3))
    assert load_recipe(whole) is whole
    assert load_recipe(whole.pruning) == Recipe(pruning=whole.pruning)
    assert load_recipe(whole.quantization) == Recipe(quantization=whole.quantization)
    config = PostTrainingConfig(loss_per_bit=1e-6)
    assert load_recipe(config) == Recipe(post_training=config)


def test_a_recipe_takes_another_target_where_it_has_one():
    found = load_recipe("quick").with_target(20_000)
    assert found.quantization.target_bytes == 20_000
    assert found.fine_tuning == load_recipe("quick").fine_tuning
    assert load_recipe("post-training").with_target(900).post_training.target_bytes == 900
    for recipe, size in ((Recipe(pruning=PruningConfig()), 1000), (load_recipe("quick"), 0)):
        with pytest.raises(RecipeError, match=r"size that is asked for|above 0"):
            recipe.with_target(size)


@pytest.mark.parametrize(("value", "found"), [(None, "NoneType"), ({"bits": 4}, "dict")])
def test_load_recipe_refuses_values_of_another_type(value, found):
    with pytest.raises(RecipeError, match=f"the recipe is a {found}; give a name"):
        load_recipe(value)

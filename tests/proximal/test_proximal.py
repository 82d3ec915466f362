"""Proximal operators against the minimization that defines each of them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flyweight.errors import ModelError, RecipeError
from flyweight.proximal import (
    elastic_net,
    group_soft_threshold,
    hard_threshold,
    mcp,
    n_of_m,
    scad,
    soft_threshold,
    top_k,
    trimmed_l1,
)

STRENGTHS = (0.0, 0.3, 1.0)
STEPS = (0.1, 1.0, 2.5, 4.0)


def l1(w, strength):
    return strength * np.abs(w)


def l0(w, strength):
    return strength * (w != 0)


def net(w, strength):
    return strength * np.abs(w) + 0.35 * w**2


def scad_penalty(w, strength, a=3.7):
    w = np.abs(w)
    middle = (2 * a * strength * w - w**2 - strength**2) / (2 * (a - 1))
    far = strength**2 * (a + 1) / 2
    return np.where(w <= strength, strength * w, np.where(w <= a * strength, middle, far))


def mcp_penalty(w, strength, gamma=3.0):
    w = np.abs(w)
    inner = strength * w - w**2 / (2 * gamma)
    return np.where(w <= gamma * strength, inner, gamma * strength**2 / 2)


SEPARABLE = {
    "soft": (soft_threshold, l1),
    "hard": (hard_threshold, l0),
    "elastic": (lambda v, s, step: elastic_net(v, s, ridge=0.7, step=step), net),
    "scad": (scad, scad_penalty),
    "mcp": (mcp, mcp_penalty),
}
separable = pytest.mark.parametrize(("operator", "penalty"), SEPARABLE.values(), ids=SEPARABLE)


def objective(w, v, step, penalty, strength):
    return 0.5 * (w - v) ** 2 + step * penalty(w, strength)


@separable
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("step", STEPS)
def test_operator_finds_the_minimum_of_a_fine_grid(operator, penalty, strength, step):
    values = np.concatenate([np.linspace(-6, 6, 97), [0.0, -0.0, 0.3, -0.3]])
    found = operator(torch.from_numpy(values), strength, step=step).numpy()
    grid = np.concatenate([np.linspace(-7, 7, 28_001), [0.0]])
    ours = objective(found, values, step, penalty, strength)
    costs = objective(grid[None], values[:, None], step, penalty, strength)
    assert (ours <= costs.min(1) + 1e-12).all()
    # Where the minimum is unique it is the same point: the grid is 5e-4 wide.
    best = grid[costs.argmin(1)]
    near = np.abs(found - best) < 6e-4
    tie = np.abs(ours - objective(best, values, step, penalty, strength)) < 1e-6
    assert (near | tie).all()
    assert near.mean() > 0.9


@separable
@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0, 5), st.floats(0.01, 6))
def test_operator_result_beats_any_other_value(operator, penalty, value, other, strength, step):
    w = float(operator(torch.tensor([value], dtype=torch.float64), strength, step=step))
    ours, theirs = (objective(x, value, step, penalty, strength) for x in (w, other))
    assert ours <= theirs + 1e-9 * (1 + abs(theirs))


@separable
def test_operator_takes_a_step_per_weight(operator, penalty):
    values = torch.linspace(-5, 5, 40, dtype=torch.float64).view(5, 8)
    steps = torch.linspace(0.0, 6, 40, dtype=torch.float64).flip(0).view(5, 8)
    found = operator(values, 0.6, step=steps)
    for index in itertools.product(range(5), range(8)):
        alone = operator(values[index].view(1), 0.6, step=float(steps[index]))
        assert float(found[index]) == pytest.approx(float(alone), abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "operator",
    [
        *(operator for name, (operator, _) in SEPARABLE.items() if name != "elastic"),
        lambda v, s, step: elastic_net(v, s, ridge=0.0, step=step),
        lambda v, s, step: trimmed_l1(v, s, nonzeros=2, step=step),
        lambda v, s, step: group_soft_threshold(v, s, step=step),
    ],
)
def test_operator_preserves_type_and_shape_and_gives_positive_zeros(operator, dtype):
    values = torch.tensor([[-3.0, -0.2, -0.0], [0.0, -0.1, 0.1]], dtype=dtype)
    before = values.clone()
    for step in (1.0, torch.ones_like(values)):
        for strength in (0.0, 0.5):
            found = operator(values, strength, step=step)
            assert found.dtype == dtype
            assert found.shape == values.shape
            zeros = found[found == 0]
            assert not torch.signbit(zeros).any()
            assert not found[1].any() or strength == 0
            assert strength or torch.equal(found, values)
    assert torch.equal(values, before)
    assert operator(values[:0], 0.5, step=1.0).shape == (0, 3)


def test_operator_propagates_nan():
    values = torch.tensor([math.nan, 1.0])
    for operator, _ in SEPARABLE.values():
        assert torch.isnan(operator(values, 0.5, step=1.0)).tolist() == [True, False]
    with pytest.raises(ModelError, match="NaN"):
        trimmed_l1(values, 0.5, nonzeros=1)
    with pytest.raises(ModelError, match="NaN"):
        top_k(values, 1)


@pytest.mark.parametrize("nonzeros", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("metric", [False, True])
def test_trimmed_l1_is_the_best_of_all_supports(nonzeros, metric):
    generator = torch.Generator().manual_seed(nonzeros)
    for _ in range(20):
        values = torch.randn(5, dtype=torch.float64, generator=generator)
        step: float | torch.Tensor = 0.5
        if metric:
            step = torch.rand(5, dtype=torch.float64, generator=generator) + 0.01
        found = trimmed_l1(values, 0.9, nonzeros=nonzeros, step=step)
        soft = soft_threshold(values, 0.9, step=step)

        def cost(w, values=values, step=step):
            sizes = w.abs().sort().values[: max(0, 5 - nonzeros)]
            return float(((w - values) ** 2 / (2 * step)).sum() + 0.9 * sizes.sum())

        choices = []
        for spared in itertools.combinations(range(5), min(nonzeros, 5)):
            w = soft.clone()
            w[list(spared)] = values[list(spared)]
            choices.append(cost(w))
        assert cost(found) == pytest.approx(min(choices), abs=1e-12)


def test_trimmed_l1_and_top_k_prefer_the_later_of_equal_values():
    values = torch.tensor([1.0, -1.0, 1.0, 0.0])
    assert trimmed_l1(values, 0.25, nonzeros=2).tolist() == [0.75, -1.0, 1.0, 0.0]
    assert top_k(values, 2).tolist() == [0.0, -1.0, 1.0, 0.0]
    assert top_k(values, 0).tolist() == [0.0] * 4
    assert torch.equal(top_k(values, 99), values)


@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0]), max_size=7),
    st.integers(0, 7),
)
def test_top_k_is_the_nearest_sparse_vector(values, nonzeros):
    vector = torch.tensor(values, dtype=torch.float64)
    found = top_k(vector, nonzeros)
    assert int((found != 0).sum()) <= nonzeros
    size = min(nonzeros, len(values))
    nearest = min(
        sum(v**2 for i, v in enumerate(values) if i not in support)
        for support in itertools.combinations(range(len(values)), size)
    )
    assert float((found - vector).square().sum()) == nearest


def test_top_k_and_n_of_m_are_nearest_in_the_metric_of_the_steps():
    assert top_k(torch.tensor([1.0, 0.9]), 1, step=torch.tensor([1.0, 0.1])).tolist() == [
        0.0,
        pytest.approx(0.9),
    ]
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        values = torch.randn(1, 4, 3, dtype=torch.float64, generator=generator)
        step = torch.rand(1, 4, 3, dtype=torch.float64, generator=generator) + 1e-3
        costs = values**2 / step
        for found, options in (
            (top_k(values[0, :, 0], 2, step=step[0, :, 0]), itertools.combinations(range(4), 2)),
            (n_of_m(values, 1, 4, step=step)[0, :, 0], ((k,) for k in range(4))),
        ):
            lost = float(costs[0, :, 0][found == 0].sum())
            every = [float(costs[0, :, 0].sum() - costs[0, list(o), 0].sum()) for o in options]
            assert lost == pytest.approx(min(every))
            assert torch.equal(found[found != 0], values[0, :, 0][found != 0])


def test_n_of_m_is_the_nearest_of_its_pattern():
    weight = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0))
    found = n_of_m(weight, 2, 4)
    for row, place, group in itertools.product(range(3), range(2), range(2)):
        four = weight[row, 4 * group : 4 * group + 4, place]
        assert torch.equal(found[row, 4 * group : 4 * group + 4, place], top_k(four, 2))
    with pytest.raises(ModelError, match="multiple of 3"):
        n_of_m(weight, 1, 3)


@pytest.mark.parametrize(
    ("groups", "shape", "slices"),
    [
        ("filters", (3, 2, 2), [(k,) for k in range(3)]),
        ("channels", (3, 2, 2), [(slice(None), k) for k in range(2)]),
        ("1x2", (2, 4), [(r, slice(c, c + 2)) for r in range(2) for c in (0, 2)]),
    ],
)
@pytest.mark.parametrize("metric", [False, True])
def test_group_soft_threshold_matches_scipy(groups, shape, slices, metric):
    optimize = pytest.importorskip("scipy.optimize")
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(*shape, dtype=torch.float64, generator=generator)
    values[slices[0]] *= 0.1
    step = torch.full(shape, 0.5, dtype=torch.float64)
    if metric:
        step = torch.rand(*shape, dtype=torch.float64, generator=generator) + 0.05
    found = group_soft_threshold(values, 0.7, groups=groups, step=step if metric else 0.5)
    assert not found[slices[0]].any()
    assert found[slices[-1]].all()
    for place in slices:
        v, s, w = (t[place].flatten().numpy() for t in (values, step, found))

        def cost(x, v=v, s=s):
            return ((x - v) ** 2 / (2 * s)).sum() + 0.7 * math.sqrt(v.size) * np.linalg.norm(x)

        best = optimize.minimize(cost, v * 0.5, method="Nelder-Mead", options={"xatol": 1e-9})
        assert cost(w) <= best.fun + 1e-9
        assert w == pytest.approx(best.x, abs=2e-3)


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e9])
def test_group_soft_threshold_meets_its_optimality_condition_in_a_metric(spread):
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(50, 9, dtype=torch.float64, generator=generator)
    exponents = torch.rand(50, 9, dtype=torch.float64, generator=generator)
    step = 0.2 * spread**-exponents
    found = group_soft_threshold(values, 0.9, step=step)
    lengths = found.norm(dim=1, keepdim=True)
    alive = lengths.squeeze(1) > 0
    assert alive.any()
    gradient = (found - values) / step + 0.9 * 3 * found / lengths
    scale = (values / step).norm(dim=1)
    assert (gradient.norm(dim=1) / scale)[alive].max() < 1e-12
    dual = (values / step).norm(dim=1)
    assert (dual[~alive] <= 2.7).all()
    assert (dual[alive] > 2.7).all()


def test_operator_of_equal_steps_is_that_of_one_step():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    for groups in ("filters", "channels", "2x1x3x3"):
        one = group_soft_threshold(weight, 1.15, groups=groups, step=0.8)
        each = group_soft_threshold(weight, 1.15, groups=groups, step=torch.full_like(weight, 0.8))
        assert torch.equal(one == 0, each == 0)
        torch.testing.assert_close(one, each)
        assert (one == 0).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: soft_threshold(v, -1.0), "strength of a penalty is -1.0; give"),
        (lambda v: soft_threshold(v, math.inf), "is inf; give a finite number from 0"),
        (lambda v: soft_threshold(v, math.nan), "is nan; give"),
        (lambda v: hard_threshold(v, 1.0, step=-0.1), "step of a penalty"),
        (lambda v: soft_threshold(v, 1.0, step=torch.ones(3)), r"\(3,\); give .*\(2, 4\)"),
        (lambda v: soft_threshold(v.int(), 1.0), "type torch.int32|of torch.int32"),
        (lambda v: elastic_net(v, 1.0, ridge=-1.0), "ridge of a penalty"),
        (lambda v: trimmed_l1(v, 1.0, nonzeros=-1), "is -1; give 0 or more"),
        (lambda v: top_k(v, -2), "is -2; give 0 or more"),
        (lambda v: scad(v, 1.0, a=2.0), "is 2.0; give a finite number above 2"),
        (lambda v: mcp(v, 1.0, gamma=0.0), "is 0.0; give a finite number above 0"),
        (lambda v: group_soft_threshold(v[0], 1.0), "two or more dimensions"),
        (lambda v: group_soft_threshold(v, 1.0, groups="2:4"), "the groups are '2:4'; give"),
        (lambda v: group_soft_threshold(v, 1.0, groups="3x1"), "do not divide"),
    ],
)
def test_operator_refuses_impossible_values(call, message):
    with pytest.raises(ModelError, match=message) as caught:
        call(torch.ones(2, 4))
    assert "\n" not in str(caught.value)


def test_group_soft_threshold_refuses_an_unknown_group():
    with pytest.raises(RecipeError, match="a pattern is"):
        group_soft_threshold(torch.ones(2, 2), 1.0, groups="rings")

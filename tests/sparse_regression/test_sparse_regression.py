"""Solvers of sparse regression against reference values, closed forms and scikit-learn."""

import functools
import itertools
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from flyweight.errors import DataError, ModelError
from flyweight.sparse_regression import (
    fista,
    gradient_descent,
    ista,
    lipschitz_constant,
    projected_gradient,
    subgradient,
    trimmed_ista,
)

REFERENCE = json.loads(Path(__file__).with_name("sparse_regression_reference.json").read_text())
X, Y = (np.array(REFERENCE["problem"][name]) for name in "Xy")
COURSE = {"step": 0.02, "steps": 200}
STRENGTHS = (0.2, 0.5, 1.0, 2.0)
SOLVERS = {
    "gradient_descent": gradient_descent,
    "projected_gradient": projected_gradient,
    "subgradient": functools.partial(subgradient, strength=1.0),
    "ista": functools.partial(ista, strength=1.0),
    "fista": functools.partial(fista, strength=1.0),
    "trimmed_ista": functools.partial(trimmed_ista, strength=1.0),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def course_cases():
    yield "b", gradient_descent(X, Y, **COURSE), REFERENCE["b_gd"]
    yield "c", projected_gradient(X, Y, **COURSE, nonzeros=2), REFERENCE["c_pgd"]
    for key, found in REFERENCE["d_l1_subgradient"].items():
        yield f"d {key}", subgradient(X, Y, **COURSE, strength=float(key)), found
    for key, found in REFERENCE["e_prox_l1"].items():
        yield f"e {key}", ista(X, Y, **COURSE, strength=float(key) / 0.02), found
    for key, found in REFERENCE["f_trimmed_after"].items():
        yield f"f {key}", trimmed_ista(X, Y, **COURSE, strength=float(key)), found


CASES = list(course_cases())


@pytest.mark.parametrize(("case", "history", "expected"), CASES, ids=[name for name, *_ in CASES])
def test_solvers_match_reference_of_every_case(case, history, expected):
    weights = np.array(expected["final_W"])
    assert history.weights.shape == (201, 5)
    assert history.loss.shape == (201,)
    assert history.weights.dtype == np.float64
    np.testing.assert_allclose(history.weights[-1], weights, rtol=1e-6, atol=0)
    assert ((history.weights[-1] == 0) == (weights == 0)).all()
    assert history.exact_zeros == expected["exact_zeros"]
    for step, loss in {**expected.get("L_at", {}), "200": expected["final_L"]}.items():
        if case == "b" and loss < 1e-20:  # only rounding is left
            assert history.loss[int(step)] < 1e-20
        else:
            assert history.loss[int(step)] == pytest.approx(loss, rel=1e-6)
    changes = [(step, tuple(support)) for step, support in expected["support_changes"]]
    if case == "f 10.0":
        # At step 2 a weight of −0.2 meets a threshold of 0.2: zero, but for rounding.
        changes = [change for change in changes if change[0] not in (2, 3)]
    assert history.support_changes == changes
    if "final_objective" in expected:
        _check_objective(case, history, expected)
    if case != "b":  # only rounding is left
        last = history.loss[-20:]
        extremes = [expected["L_min_last20"], expected["L_max_last20"]]
        np.testing.assert_allclose([last.min(), last.max()], extremes, rtol=1e-6)
        steady = bool((np.diff(history.loss) <= 1e-15).all())
        assert steady == expected["monotone_L"]


def _check_objective(case, history, expected):
    strength = float(case.partition(" ")[2]) / (0.02 if case.startswith("e") else 1)
    sizes = np.sort(np.abs(history.weights[-1]))
    assert sizes.sum() == pytest.approx(expected["l1"], rel=1e-6)
    penalized = sizes[:-2] if case.startswith("f") else sizes
    objective = history.loss[-1] + strength * penalized.sum()
    assert objective == pytest.approx(expected["final_objective"], rel=1e-6)


def test_lipschitz_constant_matches_reference_problem():
    problem = REFERENCE["problem"]
    eigenvalues = np.linalg.eigvalsh(X.T @ X)
    np.testing.assert_allclose(eigenvalues, sorted(problem["XtX_eigs"]), rtol=1e-6, atol=1e-12)
    assert np.linalg.matrix_rank(X) == problem["rank"]
    assert lipschitz_constant(X) == pytest.approx(problem["lipschitz_of_grad"], rel=1e-6)


@pytest.mark.parametrize(("step", "stable"), [(0.0625, True), (0.0627, False)])
def test_gradient_descent_is_stable_only_below_two_over_lipschitz(step, stable):
    assert (step < REFERENCE["problem"]["max_stable_mu"]) == stable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = gradient_descent(X, Y, step=step, steps=3000).loss
    assert (loss[-1] < loss[0]) == stable


def test_gradient_descent_first_step_by_hand():
    first = gradient_descent(X, Y, step=0.02, steps=1).weights
    np.testing.assert_allclose(first, [[0] * 5, [-0.44, 0.44, 0.04, -0.12, -0.20]], atol=1e-15)


def test_gradient_descent_reaches_minimum_norm_solution():
    history = gradient_descent(X, Y, **COURSE)
    assert history.loss[-1] < 1e-28
    np.testing.assert_allclose(history.weights[-1], np.linalg.pinv(X) @ Y, rtol=1e-12)
    published = REFERENCE["problem"]["min_norm_solution"]
    np.testing.assert_allclose(history.weights[-1], published, rtol=1e-6)


@pytest.mark.parametrize("name", REFERENCE["early_first20"])
def test_projected_and_trimmed_match_reference_of_early_steps(name):
    kind, _, strength = name.rpartition("_")
    history = projected_gradient(X, Y, step=0.02, steps=20)
    if kind:
        history = trimmed_ista(X, Y, step=0.02, steps=20, strength=float(strength))
    expected = np.array(REFERENCE["early_first20"][name])
    np.testing.assert_allclose(history.weights, expected, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_fista_converges_to_closed_form_of_lasso(strength):
    found = fista(X, Y, step=0.02, steps=5000, strength=strength, tolerance=1e-15)
    weights = [0, 2 - strength / 14, 0, 0, -1 + strength / 7]
    np.testing.assert_allclose(found.weights[-1], weights, rtol=1e-6, atol=0)
    assert found.loss[-1] == pytest.approx(3 * strength**2 / 28, rel=1e-6)
    reference = REFERENCE["lasso_optimum_200k_steps"][str(strength)]
    np.testing.assert_allclose(found.weights[-1], reference["W"], rtol=1e-6, atol=0)


def test_ista_and_fista_reach_lasso_support_at_known_steps():
    settled = {
        solver: [
            solver(X, Y, step=0.02, steps=1500, strength=strength).support_changes[-1]
            for strength in STRENGTHS
        ]
        for solver in (ista, fista)
    }
    assert settled[ista] == [(918, (1, 4)), (385, (1, 4)), (203, (1, 4)), (104, (1, 4))]
    assert settled[fista] == [(109, (1, 4)), (52, (1, 4)), (37, (1, 4)), (26, (1, 4))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "columns"), [(40, 12), (15, 30)])
def test_ista_and_fista_match_scikit_learn(seed, rows, columns):
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, columns))
    truth = np.where(rng.random(columns) < 0.3, rng.normal(size=columns), 0)
    y = matrix @ truth + 0.1 * rng.normal(size=rows)
    strength = 0.2 * np.abs(2 * matrix.T @ y).max()
    lasso = linear.Lasso(
        alpha=strength / (2 * rows), fit_intercept=False, tol=1e-14, max_iter=1_000_000
    )
    expected = lasso.fit(matrix, y).coef_
    step = 0.99 / lipschitz_constant(matrix)
    for solver in (ista, fista):
        settings = {"strength": strength, "step": step, "tolerance": 1e-14}
        history = solver(matrix, y, steps=100_000, **settings)
        assert history.steps < 100_000
        np.testing.assert_allclose(history.weights[-1], expected, rtol=1e-6, atol=1e-9)
        assert history.exact_zeros == (expected == 0).sum() > 0


def test_ista_is_monotone_and_trimmed_ista_has_no_bias():
    strength = 1.0
    history = ista(X, Y, **COURSE, strength=strength)
    objective = history.loss + strength * np.abs(history.weights).sum(1)
    assert (np.diff(objective) <= 1e-12).all()
    trimmed = trimmed_ista(X, Y, **COURSE, strength=strength)
    np.testing.assert_allclose(trimmed.weights[-1], [0, 2, 0, 0, -1], atol=1e-6)


def test_projected_gradient_finds_best_pair():
    losses = {
        pair: np.linalg.lstsq(X[:, pair], Y)[1].sum()
        for pair in itertools.combinations(range(5), 2)
    }
    best = min(losses, key=losses.__getitem__)
    assert best == tuple(projected_gradient(X, Y, **COURSE).support[-1].nonzero()[0])


@every_solver
def test_history_begins_at_start_and_continues(solver):
    start = np.array([0.5, -0.5, 0.0, 1.0, 2.0])
    given = start.copy()
    history = solver(X, Y, step=0.02, steps=6, start=start)
    assert (history.weights[0] == start).all()
    assert history.loss[0] == pytest.approx(((X @ start - Y) ** 2).sum())
    assert (start == given).all()
    for weights, loss in zip(history.weights, history.loss, strict=True):
        assert loss == pytest.approx(((X @ weights - Y) ** 2).sum())
    nothing = solver(X, Y, step=0.02, steps=0)
    assert (nothing.steps, nothing.weights.tolist(), nothing.loss.tolist()) == (0, [[0] * 5], [27])
    assert nothing.support_changes == []
    if solver is not SOLVERS["fista"]:  # its momentum restarts
        rest = solver(X, Y, step=0.02, steps=3, start=history.weights[3])
        assert (rest.weights == history.weights[3:]).all()


def test_tolerance_stops_when_no_weight_moves():
    long = gradient_descent(X, Y, step=0.02, steps=500)
    short = gradient_descent(X, Y, step=0.02, steps=500, tolerance=1e-6)
    assert 10 < short.steps < 200
    assert (short.weights == long.weights[: short.steps + 1]).all()
    moves = np.abs(np.diff(short.weights, axis=0)).max(1)
    assert moves[-1] <= 1e-6 < moves[-2]


def test_step_above_lipschitz_bound_warns():
    constant = lipschitz_constant(X)
    assert constant == pytest.approx(REFERENCE["problem"]["lipschitz_of_grad"], rel=1e-12)
    assert 2 / constant == pytest.approx(REFERENCE["problem"]["max_stable_mu"], rel=1e-12)
    for name, solver in SOLVERS.items():
        limit = 2 if name in ("gradient_descent", "subgradient", "ista") else 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solver(X, Y, step=0.999 * limit / constant, steps=2)
        with pytest.warns(UserWarning, match="constant .* is 31.9671; use a step below 0.0") as w:
            solver(X, Y, step=1.001 * limit / constant, steps=2)
        assert w[0].filename == __file__
        assert f"below {limit / constant:.6g}" in str(w[0].message)
    assert gradient_descent([[0.0]], [1.0], step=9.0, steps=2).loss.tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:step .* may not converge")
@every_solver
def test_divergence_raises(solver):
    with pytest.raises(ModelError, match="use a smaller step"):
        solver(X, Y, step=1.0, steps=5000)


@every_solver
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": [1.0, 2.0]}, "3 rows but y has 2 elements"),
        ({"X": [1.0, 2.0]}, r"X must have 2 dimensions .* \(2,\)"),
        ({"X": np.zeros((0, 5)), "y": []}, "not be empty"),
        ({"X": [[1.0, "a"]]}, "X must be numeric"),
        ({"y": [1.0, math.nan, 0.0]}, "y contains NaN"),
        ({"start": [0.0]}, "5 columns but start has 1"),
        ({"step": 0.0}, "step must be a finite number > 0; got 0.0"),
        ({"step": math.nan}, "> 0; got nan"),
        ({"step": "a"}, "> 0; got 'a'"),
        ({"steps": -1}, "steps must be an integer >= 0; got -1"),
        ({"steps": 2.5}, "steps must be an integer >= 0; got 2.5"),
        ({"tolerance": -1.0}, "tolerance"),
    ],
)
def test_solvers_refuse_invalid_arguments_in_one_sentence(solver, given, message):
    settings = {"X": X, "y": Y, **COURSE} | given
    with pytest.raises((DataError, ModelError), match=message) as caught:
        solver(settings.pop("X"), settings.pop("y"), **settings)
    assert "\n" not in str(caught.value)


def test_solvers_refuse_negative_strength_and_invalid_nonzeros():
    for solver in (subgradient, ista, fista, trimmed_ista):
        with pytest.raises(ModelError, match="strength"):
            solver(X, Y, **COURSE, strength=-1.0)
    for solver in (projected_gradient, functools.partial(trimmed_ista, strength=1.0)):
        for wrong in (-1, 1.5, True):
            with pytest.raises(ModelError, match="nonzeros must be an integer"):
                solver(X, Y, **COURSE, nonzeros=wrong)

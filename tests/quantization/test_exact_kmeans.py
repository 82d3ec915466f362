"""Tests of exact one-dimensional k-means: by brute force, by table, and at scale."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.errors import ModelError
from flyweight.quantization import exact_kmeans, exact_kmeans_edges

integers = st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True)


def error_of(points, weights, edges):
    """Weighted squared error, each cluster by its own mean."""
    total = 0.0
    for begin, end in itertools.pairwise(edges):
        mean = np.average(points[begin:end], weights=weights[begin:end])
        total += float(weights[begin:end] @ (points[begin:end] - mean) ** 2)
    return total


def exact_error(integers, edges):
    """Squared error of whole numbers in clusters, as a fraction."""
    parts = [[Fraction(int(x)) for x in integers[a:b]] for a, b in itertools.pairwise(edges)]
    return sum(sum(x * x for x in part) - sum(part) ** 2 / len(part) for part in parts)


def by_brute_force(points, weights, clusters):
    """The least error of all partitions."""
    cuts = itertools.combinations(range(1, len(points)), clusters - 1)
    return min(error_of(points, weights, (0, *cut, len(points))) for cut in cuts)


@pytest.mark.parametrize("spread", ["normal", "equal steps", "heavy tails", "mirrored"])
def test_exact_kmeans_edges_have_the_least_error(spread):
    generator = np.random.default_rng(0)
    for _ in range(12):
        points = {
            "normal": generator.normal(size=9),
            "equal steps": np.arange(9.0),  # no penalty gives every number of clusters
            "heavy tails": generator.standard_cauchy(9),
            "mirrored": np.outer([-1, 1], generator.random(4)).ravel(),
        }[spread]
        points = np.unique(points)
        weights = generator.integers(1, 5, points.size).astype(float)
        for clusters in range(1, points.size + 1):
            edges = exact_kmeans_edges(points, weights, clusters)
            assert len(edges) == clusters + 1
            assert (np.diff(edges) > 0).all()
            least = by_brute_force(points, weights, clusters)
            scale = error_of(points, weights, (0, points.size))
            assert error_of(points, weights, edges) == pytest.approx(least, abs=1e-12 * scale)


@given(integers, st.data())
def test_exact_kmeans_edges_of_integers_are_exact(points, data):
    points = np.array(sorted(points), dtype=float)
    clusters = data.draw(st.integers(1, len(points)))
    edges = exact_kmeans_edges(points, np.ones(len(points)), clusters)
    cuts = itertools.combinations(range(1, len(points)), clusters - 1)
    least = min(exact_error(points, (0, *cut, len(points))) for cut in cuts)
    assert exact_error(points, edges) == least


def by_table(points, weights, clusters):
    """The least error of all partitions, by dynamic programming over all pairs of positions."""
    totals, sums = (np.concatenate([[0], np.cumsum(x)]) for x in (weights, weights * points))
    begin, end = np.tril_indices(totals.size, -1)[::-1]
    gain = np.full((totals.size, totals.size), -np.inf)
    gain[begin, end] = (sums[end] - sums[begin]) ** 2 / (totals[end] - totals[begin])
    best = gain[0]
    for _ in range(clusters - 1):
        best = (best[:, None] + gain).max(0)
    return float(weights @ points**2) - best[-1]


@pytest.mark.parametrize("clusters", [2, 7, 32, 255])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_exact_kmeans_edges_agree_with_dynamic_programming(clusters, offset):
    points = np.unique(np.random.default_rng(1).laplace(size=500))
    weights = np.random.default_rng(2).exponential(size=500) * 1e-9
    edges = exact_kmeans_edges(points + offset, weights, clusters)
    assert error_of(points, weights, edges) == pytest.approx(
        by_table(points, weights, clusters), rel=1e-6
    )


def test_exact_kmeans_edges_do_not_depend_on_the_first_penalty(monkeypatch):
    points = np.unique(np.random.default_rng(3).normal(size=20_000))
    guessed = exact_kmeans_edges(points, np.ones(points.size), 16)
    monkeypatch.setattr(exact_kmeans, "_COARSE", ())
    assert np.array_equal(guessed, exact_kmeans_edges(points, np.ones(points.size), 16))


def test_exact_kmeans_edges_take_the_ends_of_float32():
    points = np.array([-3e38, -2.9e38, 1e-45, 2e38, 3e38])
    assert exact_kmeans_edges(points, np.ones(5), 3).tolist() == [0, 2, 3, 5]
    tiny = np.array([1e-45, 2e-45, 9e-45, 1e-44])
    assert exact_kmeans_edges(tiny, np.ones(4), 2).tolist() == [0, 2, 4]


@pytest.mark.parametrize("decades", [13, 18, 24])
def test_exact_kmeans_edges_take_weights_of_any_span(decades):
    generator = np.random.default_rng(5)
    for _ in range(6):
        points = np.unique(generator.normal(size=9))
        weights = 10.0 ** -(decades * generator.random(points.size))
        rounding = 1e-15 * weights.sum() * np.ptp(points) ** 2
        for clusters in range(1, points.size + 1):
            edges = exact_kmeans_edges(points, weights, clusters)
            assert (np.diff(edges) > 0).all()
            least = by_brute_force(points, weights, clusters)
            assert error_of(points, weights, edges) <= least * (1 + 1e-6) + rounding


@pytest.mark.parametrize("heavy", ["first", "last"])
def test_exact_kmeans_edges_count_weights_that_vanish_in_sums(heavy):
    points = np.arange(400.0)
    weights = np.ones(400)
    weights[300:] = 1e-18
    weights = weights if heavy == "first" else weights[::-1]
    edges = exact_kmeans_edges(points, weights, 350)  # at least 50 clusters of such weights only
    assert edges.size == 351
    assert (np.diff(edges) > 0).all()


@pytest.mark.parametrize("clusters", [0, 4])
def test_exact_kmeans_edges_refuse_more_clusters_than_values(clusters):
    with pytest.raises(ModelError, match=f"3 distinct values cannot make {clusters} clusters"):
        exact_kmeans_edges(np.arange(3.0), np.ones(3), clusters)

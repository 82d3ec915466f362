"""Weight sharing: Lloyd's conditions, pinned zeros, few distinct values, bad input."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flyweight.errors import ModelError
from flyweight.quantization import INITIALIZATIONS, kmeans_1d, quantize_kmeans

values = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=60)


def nearest_of(data, centroids):
    """The place of the nearest of some centroids."""
    return (data[:, None] - centroids[None]).abs().argmin(1)


def lloyd(data, centroids):
    """Plain k-means from given centroids, by the full distance table."""
    while True:
        nearest = nearest_of(data, centroids)
        updated = torch.stack([data[nearest == k].mean() for k in range(len(centroids))])
        if torch.equal(updated, centroids):
            return centroids
        centroids = updated


def test_kmeans_1d_equals_plain_lloyd():
    data = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = torch.linspace(float(data.min()), float(data.max()), 8, dtype=torch.float64)
    ours, theirs = kmeans_1d(data, 8), lloyd(data, start)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)  # sums in another order
    assert torch.equal(nearest_of(data, ours), nearest_of(data, theirs))


@given(values, st.integers(1, 9), st.sampled_from(INITIALIZATIONS))
def test_kmeans_1d_meets_the_conditions_of_lloyd(data, clusters, init):
    data = torch.tensor(data, dtype=torch.float64)
    centroids = kmeans_1d(data, clusters, init=init)
    assert 1 <= len(centroids) <= clusters
    assert (centroids.diff() > 0).all()
    nearest = nearest_of(data, centroids)
    for k in range(len(centroids)):
        members = data[nearest == k]
        assert len(members)
        assert float(members.mean()) == pytest.approx(float(centroids[k]), abs=1e-9)


@pytest.mark.parametrize(
    ("data", "clusters"),
    [
        ([0.0, 0.0, 1.0, 0.5, 0.25, 0.125], 4),  # a value halfway between two centroids
        ([0.0, 1.0, 0.5, 0.25, 0.125, -1.0, -3.3491033297363128e-43], 6),  # lost in rounding
    ],
)
def test_kmeans_1d_gives_distinct_centroids(data, clusters):
    values = torch.tensor(data, dtype=torch.float64)
    centroids = kmeans_1d(values, clusters, init="density")
    assert (centroids.diff() > 0).all()
    nearest = nearest_of(values, centroids)
    means = [float(values[nearest == k].mean()) for k in range(len(centroids))]
    assert means == pytest.approx(centroids.tolist(), abs=1e-9)


@pytest.mark.parametrize("init", ["linear", "density", "optimal"])
def test_kmeans_1d_weights_are_counts(init):
    values = torch.linspace(-1, 1, 40, dtype=torch.float64) ** 3
    counts = torch.arange(40) % 7 + 1
    repeated = kmeans_1d(values.repeat_interleave(counts), 5, init=init)
    weighted = kmeans_1d(values, 5, init=init, weights=counts)
    torch.testing.assert_close(weighted, repeated)
    assert not torch.equal(weighted, kmeans_1d(values, 5, init=init))


@pytest.mark.parametrize("init", ["linear", "density", "random", "k-means++"])
def test_kmeans_1d_equals_scikit_learn(init):
    cluster = pytest.importorskip("sklearn.cluster")
    data = torch.randn(700, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    start = kmeans_1d(data, 6, init=init, iterations=0, seed=3)
    peer = cluster.KMeans(6, init=start[:, None].numpy(), n_init=1, tol=0, max_iter=500)
    theirs = torch.from_numpy(peer.fit(data[:, None].numpy()).cluster_centers_).flatten()
    ours = kmeans_1d(data, 6, init=init, iterations=500, seed=3)
    ordered, order = theirs.sort()
    torch.testing.assert_close(ours, ordered, rtol=0, atol=1e-12)  # sums in another order
    labels = torch.from_numpy(peer.labels_).long()
    assert torch.equal(nearest_of(data, ours), order.argsort()[labels])


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_initial_centroids_repeat_with_their_seed(init):
    data = torch.tensor([1.0] * 50 + [2.0, 3.0, 5.0, 8.0, 13.0], dtype=torch.float64)
    starts = [kmeans_1d(data, 4, init=init, iterations=0, seed=seed) for seed in range(20)]
    for start in starts:
        assert len(start.unique()) == 4
        assert torch.isin(start, data).all()
    assert len({tuple(start.tolist()) for start in starts}) > 1
    again = kmeans_1d(data[torch.randperm(len(data))], 4, init=init, iterations=0, seed=7)
    assert torch.equal(again, starts[7])
    # Of 55 values 50 are 1, so that it is nearly always drawn.
    assert sum(float(start[0]) == 1.0 for start in starts) >= 19


def test_kmeans_1d_optimal_has_the_least_error():
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(4)) ** 3
    errors = {
        init: float(
            (weight - quantize_kmeans(weight, bits=4, init=init).dequantize())
            .double()
            .square()
            .sum()
        )
        for init in INITIALIZATIONS
    }
    best = errors.pop("optimal")
    assert all(best <= error * (1 + 1e-6) for error in errors.values())
    assert best < 0.99 * errors["linear"]


def test_quantize_kmeans_weighs_errors():
    weight = torch.tensor([0.0, 1.0, 2.0, 10.0, 20.0])
    importance = torch.tensor([9.0, 1.0, 3.0, 0.0, 1.0])
    tensor = quantize_kmeans(weight, bits=1, init="optimal", weights=importance)
    assert tensor.levels.tolist() == [1.75, 20.0]
    assert tensor.dequantize().tolist() == [0.0, 1.75, 1.75, 1.75, 20.0]
    same = quantize_kmeans(weight, bits=1, init="optimal", weights=torch.full((5,), 0.3))
    assert torch.equal(
        same.dequantize(), quantize_kmeans(weight, bits=1, init="optimal").dequantize()
    )


@pytest.mark.parametrize("init", INITIALIZATIONS)
@pytest.mark.parametrize(("count", "decades"), [(300, 13), (300, 18), (3000, 24)])
def test_quantize_kmeans_takes_weights_of_many_decades(init, count, decades):
    generator = torch.Generator().manual_seed(count + decades)
    weight = torch.randn(count, generator=generator)
    span = torch.rand(count, generator=generator, dtype=torch.float64)
    importance = 10.0 ** (-decades * span)
    tensor = quantize_kmeans(weight, bits=4, init=init, weights=importance)
    assert bool(torch.isfinite(tensor.levels).all())
    assert len(tensor.levels) == 16
    assert float(weight.min()) <= float(tensor.levels.min())
    assert float(tensor.levels.max()) <= float(weight.max())
    found, best = (
        float((importance * (some.dequantize().double() - weight) ** 2).sum())
        for some in (tensor, quantize_kmeans(weight, bits=4, init="optimal", weights=importance))
    )
    assert best <= found * (1 + 1e-6)


@pytest.mark.parametrize("many", [2, 200_000])
@pytest.mark.parametrize("least", [1e-12, 1e-18])
def test_kmeans_1d_fills_clusters_of_tiny_weights(many, least):
    values = torch.cat([torch.linspace(0, 1, many, dtype=torch.float64), torch.tensor([10.0, 11])])
    weights = torch.ones(many + 2, dtype=torch.float64)
    weights[-2:] = least
    for init in ("linear", "optimal"):
        low, high = kmeans_1d(values, 2, init=init, weights=weights).tolist()
        if init == "linear":  # the optimum rather cuts the many in two
            assert low == pytest.approx(0.5)
            assert 10 <= high <= 11


def test_kmeans_1d_of_two_clusters_by_brute_force():
    data = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.2, 2.9], dtype=torch.float64)

    def cost(split):
        return sum(
            float(((part - part.mean()) ** 2).sum()) for part in (data[:split], data[split:])
        )

    best = min(range(1, 6), key=cost)
    expected = [float(data[:best].mean()), float(data[best:].mean())]
    assert kmeans_1d(data, 2).tolist() == pytest.approx(expected)


def test_kmeans_1d_returns_few_distinct_values():
    assert kmeans_1d(torch.tensor([2.0, -1.0, 2.0]), 8).tolist() == [-1.0, 2.0]


@given(values, st.integers(1, 4))
def test_quantize_kmeans_keeps_zeros(data, bits):
    weight = torch.tensor(data, dtype=torch.float32)
    tensor = quantize_kmeans(weight, bits=bits)
    assert torch.equal(tensor.symbols == 0, weight == 0)
    assert not tensor.dequantize()[weight == 0].any()
    assert len(tensor.levels) <= 2**bits


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", range(1, 9))
def test_quantize_kmeans_gives_the_nearest_level(bits, dtype):
    weight = torch.randn(40, 9, generator=torch.Generator().manual_seed(bits)).to(dtype)
    tensor = quantize_kmeans(weight, bits=bits, init="density")
    error = (weight.double() - tensor.dequantize().double()).abs()
    least = (weight.double()[..., None] - tensor.levels.double()).abs().min(-1).values
    assert torch.equal(error, least)
    assert tensor.shape == weight.shape
    assert tensor.dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "ends"), [(torch.float16, (4e4, 6e4)), (torch.float32, (2e38, 3e38))], ids=str
)
def test_nearest_takes_levels_whose_sum_overflows(dtype, ends):
    weight = torch.tensor([ends[0], ends[0] * 1.01, ends[1], ends[1] * 1.01]).to(dtype)
    found = quantize_kmeans(weight, bits=1).dequantize()
    torch.testing.assert_close(found, weight, rtol=0.01, atol=0)


def test_quantize_kmeans_takes_masks():
    weight = torch.tensor([1.0, 2.0, 3.0])
    tensor = quantize_kmeans(weight, bits=1, mask=torch.tensor([True, False, True]))
    assert tensor.dequantize().tolist() == [1.0, 0.0, 3.0]
    empty = quantize_kmeans(weight, bits=1, mask=torch.zeros(3, dtype=torch.bool))
    assert empty.dequantize().tolist() == [0.0, 0.0, 0.0]
    assert empty.sparsity == 1.0
    assert len(empty.levels) == 0


def test_quantize_kmeans_error_falls_with_bits():
    weight = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    errors = [
        float(
            (weight - quantize_kmeans(weight, bits=b, init="density").dequantize()).square().mean()
        )
        for b in range(1, 9)
    ]
    assert all(more > less for more, less in itertools.pairwise(errors))


def test_kmeans_refuses_impossible_arguments():
    with pytest.raises(ModelError, match="1 to 8 bits"):
        quantize_kmeans(torch.ones(2), bits=0)
    with pytest.raises(ModelError, match="shape"):
        quantize_kmeans(torch.ones(2), bits=1, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ModelError, match=r"mask has .* type torch\.uint8"):
        quantize_kmeans(torch.ones(2), bits=1, mask=torch.ones(2, dtype=torch.uint8))
    with pytest.raises(ModelError, match="weights of the error have shape"):
        quantize_kmeans(torch.ones(2), bits=1, weights=torch.ones(3))
    with pytest.raises(ModelError, match="0 or more, and not all 0"):
        quantize_kmeans(torch.ones(2), bits=1, weights=torch.zeros(2))
    with pytest.raises(ModelError, match="0 or more, and not all 0"):
        quantize_kmeans(torch.ones(2), bits=1, weights=torch.tensor([1.0, -1.0]))
    with pytest.raises(ModelError, match="2 values have 3 weights"):
        kmeans_1d(torch.ones(2), 1, weights=torch.ones(3))
    with pytest.raises(ModelError, match="NaN"):
        quantize_kmeans(torch.tensor([1.0, float("inf")]), bits=1)
    with pytest.raises(ModelError, match="no values"):
        kmeans_1d(torch.empty(0), 2)
    with pytest.raises(ModelError, match="at least one cluster"):
        kmeans_1d(torch.ones(1), 0)
    with pytest.raises(ModelError, match="'best' is unknown; choose one of linear, density,"):
        kmeans_1d(torch.rand(9), 2, init="best")  # type: ignore[arg-type]


def test_kmeans_1d_reseeds_empty_clusters():
    values = torch.tensor([0.0, 0.1, 0.2, 10.0])  # of four linear centroids two start empty
    found = kmeans_1d(values, 3, init="linear")
    assert len(found) == 3


def test_quantize_kmeans_caps_iterations():
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    errors = [
        float((quantize_kmeans(weight, bits=3, iterations=n).dequantize() - weight).square().sum())
        for n in (0, 1, 10, 300)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] > errors[2] > errors[3]

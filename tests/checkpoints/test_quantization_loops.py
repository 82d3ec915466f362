"""Rows, grids and histograms of large tensors: NumPy's results, the same by scalars and vectors."""

import numpy as np
import pytest
import torch

from flyweight import _native
from flyweight.checkpoints import histogram_quantization, uniform_grids
from flyweight.checkpoints.histogram_quantization import histogram_kmeans, histogram_symbols
from flyweight.checkpoints.uniform_grids import UniformGrid, row_statistics, tally, to_levels
from flyweight.coding.scalars import DTYPES

NAMES = ("float16", "bfloat16", "float32")
SIMD = sorted({0, _native.best_simd()})


def made(dtype, shape=(30, 700), seed=0):
    """Values of heavy tails, some of them zero, as they are stored, and in float32."""
    draw = np.random.default_rng(seed)
    values = draw.standard_t(3, shape) * (draw.random(shape) < 0.9)
    tensor = torch.from_numpy(values).to(getattr(torch, dtype))
    stored = tensor.view(torch.uint16) if dtype == "bfloat16" else tensor
    return stored.numpy(), tensor.float().numpy()


@pytest.mark.parametrize("dtype", NAMES)
def test_measure_rows_matches_numpy(dtype):
    stored, values = made(dtype)
    limits = np.linspace(0, 6, len(values), dtype=np.float32)
    results = []
    for simd in SIMD:
        found = np.zeros(len(values), np.int64), np.zeros(len(values)), np.zeros(len(values))
        _native.measure_rows(stored, DTYPES.index(dtype), limits, *found, simd)
        results.append([array.tobytes() for array in found])
    assert results[0] == results[-1]
    kept = np.where(np.abs(values) <= limits[:, None], np.abs(values), 0).astype(np.float64)
    assert found[0].tolist() == np.count_nonzero(kept, axis=1).tolist()
    assert found[1] == pytest.approx(np.square(kept).sum(axis=1), rel=1e-14)
    assert found[2].tolist() == kept.max(axis=1).tolist()


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("step", [0.25, 0.3, 0.001])  # the last with multiples beyond the table
def test_grids_match_numpy(dtype, step):
    stored, values = made(dtype)
    steps = (np.linspace(1, 2, len(values)) * step).astype(np.float32)
    units = values / steps[:, None]
    nearest = np.rint(units)
    inside = np.abs(nearest) < 2048
    slots = np.where(inside, nearest + 2048, 0).astype(np.int64)
    rest = np.where(inside, units - nearest, 0).astype(np.float64)
    table = np.random.default_rng(1).integers(0, 200, 4096, dtype=np.uint16)
    large = np.unique(nearest[~inside])
    results = []
    for simd in SIMD:
        counts, sums, squares = np.zeros(4096, np.int64), np.zeros(4096, np.int64), 0.0 * steps
        squares = squares.astype(np.float64)
        _native.tally(stored, DTYPES.index(dtype), steps, counts, sums, squares, simd)
        assert counts.tolist() == np.bincount(slots.ravel(), minlength=4096).tolist()
        exact = np.bincount(slots.ravel(), weights=rest.ravel() * 2**24, minlength=4096)
        assert (sums == exact)[np.arange(4096) != 2048].all()
        assert squares == pytest.approx(np.square(rest).sum(axis=1), rel=1e-13)
        out = np.empty(values.shape, np.uint8), np.empty(values.shape, np.uint16)
        for symbols in out:
            none = np.zeros(0, np.float32), np.zeros(0, np.uint16)
            _native.grid_symbols(stored, DTYPES.index(dtype), steps, table, *none, symbols, simd)
            assert (symbols == table[slots])[inside].all()
        results.append([array.tobytes() for array in (squares, *out)])
    assert results[0] == results[-1]
    assert (large.size > 0) == (step == 0.001)


def test_tally_and_levels_give_multiples_beyond_the_table_symbols():
    stored, values = made("float32")
    grid = UniformGrid(np.array([0.0005], np.float32), scaled=False)
    found = tally(stored, "float32", grid, np.ones(len(values)))
    assert np.abs(found.multiples).max() > 2048
    assert found.counts.sum() == values.size
    made_of = to_levels(stored, "float32", grid, found)
    assert made_of.symbols.dtype == np.uint16
    levels = np.concatenate([[0], made_of.levels])
    error = np.abs(levels[made_of.symbols] - values)
    assert (error <= 0.0005 + np.abs(values) * 2.0**-10).all()  # levels are means; 11 bits


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("shape", [(3, 7000), (1, 21_000), (21_000, 1)])
def test_results_do_not_depend_on_threads_nor_histograms_on_blocks(dtype, shape, monkeypatch):
    stored, _ = made(dtype, shape)
    monkeypatch.setattr(uniform_grids, "_BLOCK", 1000)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(histogram_quantization, "_BLOCK", 1000 * threads)
        statistics = row_statistics(stored, dtype, threads)
        grid = UniformGrid(np.array([0.3], np.float32), scaled=False)
        found = tally(stored, dtype, grid, statistics.rms, threads)
        symbols = to_levels(stored, dtype, grid, found, threads).symbols
        clusters = histogram_kmeans(stored, dtype, 3, threads)
        arrays = (statistics.rms, found.levels, symbols, clusters.centroids, clusters.table)
        results.append([array.tobytes() for array in arrays])
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", NAMES)
def test_histogram_kmeans_has_exact_means_and_errors(dtype):
    stored, values = made(dtype)
    clusters = histogram_kmeans(stored, dtype, 4)
    symbols = histogram_symbols(stored, clusters)
    assert np.bincount(symbols.ravel()).tolist() == clusters.counts.tolist()
    assert ((symbols == 0) == (values == 0)).all()
    for place, centroid in enumerate(clusters.centroids):
        assert centroid == pytest.approx(values[symbols == place + 1].mean(dtype=float), rel=1e-12)
    levels = np.concatenate([[0], clusters.centroids]).astype(np.float32)
    squares = np.empty(len(values))
    _native.bin_errors(stored, DTYPES.index(dtype), levels[clusters.table], squares)
    wanted = np.square((values - levels[symbols]).astype(float)).sum(axis=1)
    assert squares == pytest.approx(wanted, rel=1e-14)


def test_loops_refuse_buffers_that_do_not_match():
    values, rows = np.zeros((4, 8), np.float32), np.zeros(4)
    counts, steps = np.zeros(4, np.int64), np.ones(4, np.float32)
    for wrong in (
        (values, 12, steps, counts, rows, rows),  # of no such type
        (values[:3], 11, np.ones(5, np.float32), counts, rows, rows),
        (values, 11, steps, counts[:3], rows, rows),
    ):
        with pytest.raises(ValueError, match="do not match"):
            _native.measure_rows(*wrong)
    with pytest.raises(ValueError, match="do not match"):
        _native.tally(values, 11, steps, counts, counts, rows)
    with pytest.raises(ValueError, match="do not match"):
        _native.histogram(values, 4, np.zeros(65_535, np.int64))
    with pytest.raises(ValueError, match="do not match"):
        _native.cheapest_clusters(rows, rows, 1.0, rows, np.zeros(4, np.int64))
    with pytest.raises(TypeError, match="missing"):
        _native.all_equal()
    with pytest.raises((BufferError, ValueError)):
        _native.histogram(values, 4, bytes(8 * 65_536))

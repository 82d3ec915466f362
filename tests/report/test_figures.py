"""Figures: the plotted numbers, style, and reproducible files."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import pytest
import torch
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from flyweight.cifar import load_pretrained
from flyweight.errors import (
    CheckpointError,
    DataError,
    FlyweightError,
    ModelError,
)
from flyweight.modules import select_weights
from flyweight.pruning import (
    SensitivityPoint,
    Summary,
    allocate,
    filter_sums,
    global_magnitude_masks,
    summarize_sparsity,
)
from flyweight.quantization import SchemeError, compare_schemes, quantize_kmeans
from flyweight.report import (
    LINES,
    QuantizedPoint,
    accuracy_figure,
    allocation_figure,
    error_figure,
    figure_grid,
    filters_figure,
    histogram_figure,
    in_style,
    label_axes,
    legend_above,
    save_figure,
    sensitivity_figure,
    sparsity_figure,
)


@pytest.fixture(scope="module")
def pruned():
    """The shipped ResNet-20 with 80 % of its weights zero."""
    model = load_pretrained("resnet20")
    weights = select_weights(model)
    with torch.no_grad():
        for name, mask in global_magnitude_masks(weights, 0.8).items():
            weights[name].mul_(mask)
    return model


def scan(names, worst=0.5):
    return [
        SensitivityPoint(name, s, 0.9 - worst * (i + 1) / len(names) * s**2)
        for i, name in enumerate(names)
        for s in (0.0, 0.5, 0.9)
    ]


def small_model():
    """Four convolutions with a zero filter and a zero channel."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(4)))
    with torch.no_grad():
        model[1].weight[2] = 0
        model[3].weight[:, 1] = 0
    return model


def quantized(weights):
    return {name: quantize_kmeans(weight, bits=2).dequantize() for name, weight in weights.items()}


def quantized_points():
    return [
        QuantizedPoint(scheme, bits, 0.9 - gap / bits, 1000 * bits)
        for scheme, gap in (("kmeans", 0.1), ("symmetric", 0.2))
        for bits in (4, 2, 3)
    ]


def every_figure():
    model = small_model()
    weights = select_weights(model)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    points = scan([*weights])
    allocation = allocate(points, sizes, 0.6)
    return {
        "sparsity": sparsity_figure(summarize_sparsity(model)),
        "filters": filters_figure({name: filter_sums(w) for name, w in weights.items()}),
        "sensitivity": sensitivity_figure(points, allocation=allocation, score="accuracy"),
        "allocation": allocation_figure({"scan": allocation, "all": dict.fromkeys(sizes, 0.6)}),
        "values": histogram_figure(weights, quantized(weights)),
        "error": error_figure(compare_schemes(weights, bits=(2, 3))),
        "quantized": accuracy_figure(quantized_points(), dense_accuracy=0.95),
    }


def test_sparsity_figure_shows_counts_of_layers(pruned):
    counted = summarize_sparsity(pruned)
    figure = sparsity_figure(counted)
    counts, shares = figure.axes
    nonzero, zero = counts.containers
    assert [bar.get_width() * 1000 for bar in nonzero] == pytest.approx(
        [layer.nonzeros for layer in counted.layers]
    )
    ends = [bar.get_x() + bar.get_width() for bar in zero]
    assert [1000 * end for end in ends] == pytest.approx(
        [layer.parameters for layer in counted.layers]
    )
    points, total = shares.lines
    assert [*points.get_xdata()] == [layer.sparsity for layer in counted.layers]
    assert total.get_xdata()[0] == counted.sparsity
    assert figure.get_suptitle() == "53,667 of 268,336 weights are non-zero"
    labels = [text.get_text() for text in counts.get_yticklabels()]
    assert labels[:2] == ["conv1", "stages.0.0.conv1"]
    assert counts.yaxis_inverted()  # the first layer is at the top


def test_filters_figure_counts_zero_filters():
    weight = torch.randn(8, 4, 3, 3)
    weight[2] = weight[5] = 0
    figure = filters_figure({"a": filter_sums(weight), "b": torch.tensor([2.0, 0.5])})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["2 / 8", "0 / 2", "zero / all"]
    assert figure.get_suptitle() == "2 of 10 filters are zero"
    drawn = sorted(axes.lines[0].get_xdata())
    sums = weight.abs().sum((1, 2, 3))
    assert drawn == pytest.approx(sorted(sums[sums > 0].tolist()))
    assert axes.get_xlim()[1] > max(drawn)


def test_sensitivity_figure_has_chart_per_layer():
    points = scan(["conv1.weight", "linear.weight"])
    figure = sensitivity_figure(points[::-1], allocation={"linear.weight": 0.3}, score="accuracy")
    right, left = figure.axes  # in the order of the points
    assert (left.get_title(), right.get_title()) == ("conv1", "linear")
    curve, mark = right.lines
    assert curve.get_xydata().tolist() == [[p.sparsity, p.score] for p in points[3:]]
    assert mark.get_xdata()[0] == 0.3
    assert len(left.lines) == 1
    assert figure.get_supylabel() == "accuracy"
    (band,) = left.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((points[-1].score, 0.9))


def test_sensitivity_figure_interpolates_band_across_sparsities():
    points = [SensitivityPoint("a", s, 1 - s) for s in (0.0, 1.0)]
    points += [SensitivityPoint("b", s, 1.0) for s in (0.0, 0.5, 1.0)]
    (band,) = sensitivity_figure(points).axes[0].collections
    assert [0.5, 0.5] in band.get_paths()[0].vertices.tolist()


def test_allocation_figure_has_marker_per_allocation():
    ways = {"scan": {"a": 0.5, "b": 0.9}, "threshold": {"b": 0.7, "a": 0.6}}
    figure = allocation_figure(ways)
    first, second = figure.axes[0].lines
    assert [*first.get_xdata()] == [0.5, 0.9]
    assert [*second.get_xdata()] == [0.6, 0.7]
    assert first.get_marker() != second.get_marker()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["scan", "threshold"]


def test_histogram_figure_shows_share_of_each_level():
    weight = torch.cat([torch.zeros(3), torch.tensor([-1.0, -0.9, 0.8, 1.0, 0.9])])
    after = torch.tensor([0.0, 0, 0, -0.95, -0.95, 0.9, 0.9, 0.9])
    (axes,) = histogram_figure({"a.weight": weight}, {"a.weight": after, "b": after}).axes
    (lines,) = axes.collections
    ends = [path.vertices[1].tolist() for path in lines.get_paths()]
    assert [x for x, _ in ends] == pytest.approx([-0.95, 0, 0.9])
    assert [y for _, y in ends] == pytest.approx([25, 37.5, 37.5])
    (bins,) = axes.patches
    assert bins.get_data().values.sum() == pytest.approx(100)
    assert axes.get_title() == "a: 3 levels"


def test_error_figure_shows_error_against_entropy():
    points = [SchemeError("a", bits, bits - 0.5, 4.0**-bits) for bits in (3, 2)]
    left, right = error_figure(points).axes
    assert left.lines[0].get_xydata().tolist() == [[1.5, 1 / 16], [2.5, 1 / 64]]
    assert right.lines[0].get_xydata().tolist() == [[1.5, 0.5], [2.5, 0.5]]


def test_accuracy_figure_shows_accuracy_and_bytes_by_bits():
    figure = accuracy_figure(quantized_points(), dense_accuracy=0.95)
    accuracies, sizes = figure.axes
    dense, kmeans, _ = accuracies.lines
    assert dense.get_ydata()[0] == 95
    assert [*kmeans.get_xdata()] == [2, 3, 4]
    assert [*kmeans.get_ydata()] == pytest.approx([85, 100 * (0.9 - 0.1 / 3), 87.5])
    assert [*sizes.lines[1].get_ydata()] == [2, 3, 4]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kmeans", "symmetric"]


def test_accuracy_figure_clips_below_minimum_accuracy():
    accuracies, sizes = accuracy_figure(quantized_points(), minimum_accuracy=0.85).axes
    assert accuracies.get_ylim()[0] == 85
    assert sizes.get_ylim()[0] == 0


def test_line_styles_differ_without_color():
    looks = {(str(line["linestyle"]), line["marker"]) for line in LINES}
    assert len(looks) == len(LINES) == 8
    figure, (axes,) = figure_grid(1, 1, height=2)
    axes.plot([1, 2], [1, 10], label="one", **LINES[0])
    label_axes(axes, "title", "x, unit", "y, unit", log=True)
    legend_above(figure, axes)
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "title",
        "x, unit",
        "y, unit",
    )
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize(
    "name", ["x{}", "symmetric per channel {}", "{} with a very long label beside it"]
)
@in_style
def test_legend_above_fits_width(name):
    figure, (axes,) = figure_grid(1, 1, height=4)
    for number, line in enumerate(LINES):
        axes.plot([1, 2], [1, 2], label=name.format(number), **line)
    legend_above(figure, axes)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert len(legend.get_texts()) == len(LINES)


def test_save_figure_reduces_file_size(tmp_path):
    figure, (axes,) = figure_grid(1, 1, height=3)
    axes.plot(torch.linspace(0, 1, 100).sin(), **LINES[0])
    label_axes(axes, "title", "step k", "weight")
    size = save_figure(figure, tmp_path / "a.svg")
    figure.savefig(tmp_path / "b.svg", metadata={"Date": None})
    text = (tmp_path / "a.svg").read_text()
    assert size == len(text.encode()) < 0.95 * (tmp_path / "b.svg").stat().st_size
    assert "scale(0.015625)" in text  # scale of glyphs, which rounding would make 0
    assert "<!-- step k -->" in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] == 7.5 * 150
        assert len(image.convert("RGB").getcolors()) <= 64


def test_figures_are_gray_and_label_every_axis():
    for name, figure in every_figure().items():
        for artist in figure.findobj():
            for method in ("get_color", "get_facecolor", "get_edgecolor", "get_markerfacecolor"):
                red, green, blue, _ = to_rgba_array(getattr(artist, method, lambda: "none")()).T
                assert (red == green).all(), (name, artist)
                assert (green == blue).all(), (name, artist)
        assert figure.axes[0].get_yticklabels(), name
        labeled = figure.get_supxlabel() and figure.get_supylabel()
        for axes in figure.axes:
            assert labeled or axes.get_xlabel()


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_save_figure_is_reproducible(tmp_path, form):
    before = dict(matplotlib.rcParams)
    sizes = {}
    for name, figure in every_figure().items():
        sizes[name] = save_figure(figure, tmp_path / f"{name}.{form}")
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "none", "axes.facecolor": "red"}):
        again = every_figure()
        for name, size in sizes.items():
            path = tmp_path / f"again.{form}"
            assert save_figure(again[name], path) == size
            assert path.read_bytes() == (tmp_path / f"{name}.{form}").read_bytes()
    assert dict(matplotlib.rcParams) == before
    if form == "svg":
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert "<dc:date>" not in path.read_text()
    else:
        data = path.read_bytes()
        assert data.startswith({"png": b"\x89PNG", "pdf": b"%PDF-"}[form])
        assert b"CreationDate" not in data


def test_report_does_not_import_pyplot(tmp_path):
    program = (
        "import sys, flyweight, torch\n"
        "from flyweight.report import save_figure, sparsity_figure\n"
        "figure = sparsity_figure(flyweight.pruning.summarize_sparsity(torch.nn.Linear(3, 2)))\n"
        f"save_figure(figure, {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (
            lambda: save_figure(Figure(), "x.jpg"),
            DataError,
            r"'x\.jpg' is not a figure file; use \.pdf",
        ),
        (lambda: save_figure(Figure(), "x"), DataError, "'x' is not a figure file"),
        (lambda: save_figure(Figure(), "no/where.png"), CheckpointError, "does not exist"),
        (lambda: sparsity_figure(Summary(())), ModelError, "no layers"),
        (lambda: filters_figure({}), ModelError, "no filters"),
        (lambda: sensitivity_figure([]), ModelError, "no points"),
        (lambda: histogram_figure({}, {}), ModelError, "no weights"),
        (
            lambda: histogram_figure({"a": torch.ones(2)}, {}),
            ModelError,
            "weight 'a' is missing after",
        ),
        (lambda: error_figure([]), ModelError, "1 to 8 schemes; got 0"),
        (lambda: allocation_figure({}), ModelError, "1 to 8 allocations; got 0"),
        (lambda: allocation_figure({"a": {}}), ModelError, "no layers"),
        (
            lambda: allocation_figure({"a": {"x": 1.0}, "b": {"y": 1.0}}),
            ModelError,
            "'b' has other layers",
        ),
        (
            lambda: allocation_figure({str(k): {"x": 1.0} for k in range(9)}),
            ModelError,
            "got 9",
        ),
    ],
)
def test_figures_refuse_invalid_arguments(work, error, message):
    assert issubclass(error, FlyweightError)
    with pytest.raises(error, match=message):
        work()


def test_save_figure_keeps_existing_file_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"the figure of last week")
    figure = sparsity_figure(summarize_sparsity(nn.Linear(2, 2)))

    def full(*args, **kwargs):
        raise OSError("no space")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="no space"):
        save_figure(figure, path)
    assert path.read_bytes() == b"the figure of last week"
    assert [*tmp_path.iterdir()] == [path]

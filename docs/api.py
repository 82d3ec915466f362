"""Write ``docs/api.md``: every public name of every room, and an index of terms.

    python -m docs.api

Reads the sources without importing them: the names in ``__all__``, signatures, and the first line
of each docstring.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "flyweight"
PAGE = Path(__file__).with_name("api.md")
#: Rooms in the order of the page.
ROOMS = (
    "compression",
    "pruning",
    "quantization",
    "training",
    "batches",
    "recipes",
    "io",
    "compressed",
    "size_report",
    "checkpoints",
    "integrations",
    "report",
    "proximal",
    "sparse_regression",
    "structured",
    "batch_norm",
    "int8",
    "cifar",
    "modules",
    "processes",
    "coding",
    "format",
    "errors",
    "cli",
)
#: Terms, and the public names that a reader looks for.
TERMS = {
    "batch": ("batches.Batch",),
    "bias correction": ("quantization.correct_biases_",),
    "binary weights": ("quantization.BinaryWeight",),
    "calibration": ("batches.take_examples", "cifar.calibration_batches"),
    "checkpoint": ("checkpoints.compress_checkpoint",),
    "codebook": ("compressed.CompressedTensor",),
    "compress": ("compression.compress",),
    "criterion": ("pruning.PruningConfig", "pruning.saliency_scores"),
    "distillation": ("training.TrainingConfig",),
    "entropy": ("coding.order_zero",),
    "Fisher information": ("pruning.fisher_information",),
    "fixed point": ("quantization.quantize_fixed_point", "quantization.FixedPointWeight"),
    "GPTQ": ("quantization.gptq",),
    "group lasso": ("proximal.group_soft_threshold",),
    "Huffman": ("coding.code_lengths", "coding.encode"),
    "k-means": ("quantization.quantize_kmeans", "quantization.kmeans_1d"),
    "loss per bit, λ": ("quantization.PostTrainingConfig",),
    "LSQ": ("quantization.LearnedStepWeight",),
    "mask": ("pruning.MaskedWeight", "pruning.global_magnitude_masks", "modules.apply_masks_"),
    "N:M sparsity": ("pruning.n_of_m_mask",),
    "ONNX": ("int8.export_onnx",),
    "prune": ("pruning.Pruner", "pruning.PruningConfig"),
    "PTQ": ("quantization.quantize_post_training", "quantization.PostTrainingConfig"),
    "QAT": ("quantization.Quantizer", "quantization.QuantizationConfig"),
    "quantize": ("quantization.Quantizer", "quantization.QuantizationConfig"),
    "rANS": ("coding.encode",),
    "RDOQ": ("quantization.rdoq",),
    "recipe": ("recipes.Recipe",),
    "save and load": ("io.save", "io.load"),
    "schedule": ("pruning.sparsity_at", "training.TrainingConfig"),
    "sensitivity": ("pruning.sensitivity", "pruning.allocate"),
    "size report": ("size_report.inspect",),
    "ternary weights": ("quantization.TernaryWeight",),
    "Trainer callback": ("integrations.transformers_callback", "integrations.lightning_callback"),
}

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class Entry(NamedTuple):
    """A public name: the module that defines it, its signature and its description."""

    name: str
    module: str
    signature: str
    summary: str
    members: tuple[tuple[str, str], ...]


@functools.cache
def parse(path: Path) -> ast.Module:
    """Parse a source file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def path_of(module: str) -> Path:
    """Return the file of a dotted module name below ``flyweight``, or of the package itself."""
    place = SOURCE.joinpath(*module.split(".")) if module else SOURCE
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def public_names(tree: ast.Module) -> list[str]:
    """Return the strings in ``__all__`` of a module."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            value = getattr(node, "value", None)
            return [e.value for e in getattr(value, "elts", []) if isinstance(e, ast.Constant)]
    return []


def imported_from(tree: ast.Module) -> dict[str, str]:
    """Return the module of ``flyweight`` that each imported name comes from."""
    return {
        alias.asname or alias.name: node.module.removeprefix("flyweight").removeprefix(".")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flyweight")
        for alias in node.names
        if node.module
    }


def definition_of(name: str, tree: ast.Module) -> tuple[Definition, str] | None:
    """Return the definition of a name in a module, and the string or ``#:`` comment beside it."""
    found: tuple[Definition, str] | None = None
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            found = node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == name:
                text = ""
                if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    text = str(following.value.value)
                found = node, text
    return found


def comment_above(path: Path, node: Definition) -> str:
    """Return the ``#:`` comment on the lines above a definition."""
    lines = path.read_text(encoding="utf-8").splitlines()[: node.lineno - 1]
    comment: list[str] = []
    while lines and lines[-1].startswith("#:"):
        comment.insert(0, lines.pop().removeprefix("#:").strip())
    return " ".join(comment)


def first_line(text: str) -> str:
    """Return the first paragraph of a docstring up to the end of its first sentence."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    sentence, dot, _ = paragraph.partition(". ")
    return sentence + "." if dot else paragraph


def signature_of(node: ast.FunctionDef) -> str:
    """Return the parameters of a function without annotations."""
    spec = node.args
    names = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(names) - len(spec.defaults))
    parts = [
        _parameter(argument, default)
        for argument, default in zip(names, [*defaults, *spec.defaults], strict=True)
        if argument.arg not in ("self", "cls")
    ]
    if spec.vararg:
        parts.append(f"*{spec.vararg.arg}")
    elif spec.kwonlyargs:
        parts.append("*")
    parts += [_parameter(a, d) for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    if spec.kwarg:
        parts.append(f"**{spec.kwarg.arg}")
    return f"({', '.join(parts)})"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return argument.arg
    text = ast.unparse(default)
    return f"{argument.arg}={text if len(text) <= 24 else '…'}"


def _decorators(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Return the last parts of the names of decorators."""
    calls = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return {ast.unparse(call).rpartition(".")[2] for call in calls}


def _class_signature(node: ast.ClassDef) -> str:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return signature_of(item)
    if "dataclass" not in _decorators(node):
        return ""
    fields = [f"**{base.id}" for base in node.bases if isinstance(base, ast.Name)]
    fields += [
        _parameter(ast.arg(item.target.id), item.value)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        if not item.target.id.startswith("_")
    ]
    return f"({', '.join(fields)})"


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Public methods and properties of a class with their descriptions."""
    for item in node.body:
        if not isinstance(item, ast.FunctionDef) or item.name.startswith("_"):
            continue
        text = first_line(ast.get_docstring(item) or "")
        if item.name == "forward" or not text:  # of a torch module; described by its class
            continue
        is_property = _decorators(item) & {"property", "cached_property"}
        yield item.name + ("" if is_property else signature_of(item)), text


def entry(name: str, module: str) -> Entry:
    """Describe a public name, which ``module`` defines or imports from another.

    Raises:
        LookupError: the sources do not define the name.
    """
    path = path_of(module)
    tree = parse(path)
    found = definition_of(name, tree)
    if found is None:
        origin = imported_from(tree).get(name, module)
        inner = f"{origin}.{name}".removeprefix(".")
        if path_of(inner).exists():  # a module
            text = first_line(ast.get_docstring(parse(path_of(inner))) or "")
            return Entry(name, inner, "", text, ())
        if origin == module:
            raise LookupError(f"{module} has {name!r} in __all__ and does not define it")
        return entry(name, origin)
    node, text = found
    signature, members = "", ()
    if isinstance(node, ast.FunctionDef):
        signature = signature_of(node)
    elif isinstance(node, ast.ClassDef):
        signature, members = _class_signature(node), tuple(_members(node))
    return Entry(name, module, signature, first_line(text or comment_above(path, node)), members)


def entries(room: str) -> list[Entry]:
    """Describe the public names of a room; of a package without any, those of its modules."""
    names = public_names(parse(path_of(room)))
    if names or not (SOURCE / room).is_dir():
        return [entry(name, room) for name in names]
    modules = sorted(path.stem for path in (SOURCE / room).glob("*_callback.py"))
    return [
        entry(name, f"{room}.{module}")
        for module in modules
        for name in public_names(parse(path_of(f"{room}.{module}")))
    ]


def cell(text: str) -> str:
    """Escape text for a cell of a table."""
    return text.replace("|", "\\|")


def anchor(module: str) -> str:
    """Return the anchor of the heading of a module."""
    return "#" + module.replace(".", "").lower()


def table(found: list[Entry]) -> str:
    """Markdown table of entries with their members."""
    rows = ["| name | description |", "|---|---|"]
    for item in found:
        rows.append(f"| `{cell(item.name + item.signature)}` | {cell(item.summary)} |")
        rows += [f"| &emsp;`.{cell(name)}` | {cell(text)} |" for name, text in item.members]
    return "\n".join(rows)


def room_section(room: str) -> str:
    """Markdown of a room: its modules, and the public names that each defines."""
    by_module: dict[str, list[Entry]] = {}
    for item in entries(room):
        by_module.setdefault(item.module, []).append(item)
    parts = [f"## {room}", first_line(ast.get_docstring(parse(path_of(room))) or "")]
    for module in sorted(by_module):
        if module != room:
            parts.append(f"### {module}")
            parts.append(first_line(ast.get_docstring(parse(path_of(module))) or ""))
        parts.append(table(by_module[module]))
    return "\n\n".join(parts)


def module_of_term(name: str) -> str:
    """Return the module that defines a name of `TERMS`, given as "room.name"."""
    room, _, leaf = name.partition(".")
    return name if path_of(name).exists() else entry(leaf, room).module


def index_of_terms() -> str:
    """Markdown table of terms, each with one link."""
    rows = ["| term | section | names |", "|---|---|---|"]
    for term in sorted(TERMS, key=str.lower):
        names = TERMS[term]
        module = module_of_term(names[0])
        listed = ", ".join(f"`{name.partition('.')[2]}`" for name in names)
        rows.append(f"| {term} | [{module}]({anchor(module)}) | {listed} |")
    return "\n".join(rows)


def top_level() -> str:
    """Markdown table of the names of ``flyweight`` itself."""
    rows = ["| name | description |", "|---|---|"]
    for name in public_names(parse(path_of(""))):
        item = entry(name, "")
        if item.module:
            link = f"[`{name}`]({anchor(item.module)})"
            rows.append(f"| {link} | {cell(item.summary)} |")
        else:
            rows.append(f"| `{name}` | {cell(item.summary)} |")
    return "\n".join(rows)


def page() -> str:
    """Markdown of the whole page."""
    rooms = ", ".join(f"[{room}]({anchor(room)})" for room in ROOMS)
    return "\n\n".join(
        [
            "# API reference",
            "Every public name of flyweight, by room; `python -m docs.api` writes this page from "
            "the sources. `help(name)` shows arguments, exceptions and an example.",
            f"Rooms: {rooms}.",
            "## Index of terms",
            index_of_terms(),
            "## flyweight",
            "Names of the package itself; the link leads to the room that defines them.",
            top_level(),
            *map(room_section, ROOMS),
            "",
        ]
    )


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

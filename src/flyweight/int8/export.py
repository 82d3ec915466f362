"""Export models to ONNX, 8-bit layers as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import copy
import io
import os
import warnings

import torch
from torch import Tensor, nn

from flyweight._files import check_output, write_atomic
from flyweight.errors import ModelError
from flyweight.int8.constants import store_integers_

__all__ = ["export_onnx"]

_OPSET = 17


def export_onnx(model: nn.Module, example: Tensor, path: str | os.PathLike[str]) -> None:
    """Export a model to an ONNX file with the input ``images`` and the output ``logits``.

    The first dimension of both is free. Of a model of `prepare_int8` the file holds one byte for
    each weight, and pairs of QuantizeLinear and DequantizeLinear, which onnxruntime turns into
    integer arithmetic. The file is written whole or not at all.

    Args:
        model: a float model, or one of `prepare_int8`; it is not changed.
        example: a batch of inputs, with which the model is traced.
        path: of the file.

    Raises:
        ModelError: the package onnx is missing (``pip install flyweight[onnx]``), or the trace of
            the model is not valid ONNX.

    Example:
        >>> model, batch = nn.Sequential(nn.Linear(4, 2)), torch.randn(8, 4)
        >>> export_onnx(prepare_int8(model, [batch]), batch, "model.onnx")  # doctest: +SKIP

    Source: "Quantize ONNX models" in the documentation of onnxruntime, which calls the pairs QDQ.
    """
    try:
        import onnx  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ModelError("ONNX export needs onnx: pip install 'flyweight[onnx]'") from error
    check_output(path)
    written = io.BytesIO()
    with warnings.catch_warnings():
        # Only the tracing exporter turns fake quantization into the operators of ONNX.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            copy.deepcopy(model).eval(),
            (example,),
            written,  # type: ignore[arg-type]  # tracing writes to files in memory too
            dynamo=False,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )
    graph = onnx.load_from_string(written.getvalue())
    store_integers_(graph)
    content = graph.SerializeToString()
    try:
        onnx.checker.check_model(content)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            "the trace of the model is not valid ONNX, so it is not written; look for what tracing "
            f"cannot follow: {error}"
        ) from error
    write_atomic(path, content)

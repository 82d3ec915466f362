"""Models to ONNX: weights and activations in 8 bits as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import copy
import io
import os
import warnings

import torch
from torch import Tensor, nn

from flyweight.errors import ModelError
from flyweight.int8.constants import store_integers_

__all__ = ["export_onnx"]

_OPSET = 17


def export_onnx(model: nn.Module, example: Tensor, path: str | os.PathLike[str]) -> None:
    """Write a model as an ONNX file, whole or not at all, from ``images`` to ``logits``.

    The first dimension of both is free. ``model``, which stays as it is, may be a float one or from
    `prepare_int8`; there the file holds a byte for each weight, and the runtime sees pairs of
    QuantizeLinear and DequantizeLinear, which onnxruntime turns into integer arithmetic.
    ``example`` is a batch of inputs, which the model is traced with.

    Raises ModelError without the package onnx (``pip install flyweight[onnx]``), and where what the
    model was traced to is not valid ONNX.

    Example:
        >>> model, batch = nn.Sequential(nn.Linear(4, 2)), torch.randn(8, 4)
        >>> export_onnx(prepare_int8(model, [batch]), batch, "model.onnx")  # doctest: +SKIP

    Source: "Quantize ONNX models" in the documentation of onnxruntime, which calls the pairs QDQ.
    """
    try:
        import onnx  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ModelError("ONNX export needs onnx: pip install 'flyweight[onnx]'") from error
    from flyweight._files import check_output, replacing

    check_output(path)
    written = io.BytesIO()
    with warnings.catch_warnings():
        # Only the exporter by tracing turns fake quantisation into the operators of ONNX.
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
            "what the model was traced to is not valid ONNX, so it is not written; look for what "
            f"tracing cannot follow: {error}"
        ) from error
    with replacing(path) as file:
        file.write(content)

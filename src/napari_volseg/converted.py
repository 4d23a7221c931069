"""A network as OpenVINO runs it on a processor."""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Converted", "has_openvino"]


def has_openvino() -> bool:
    """Return whether OpenVINO is installed (extra ``[openvino]``)."""
    return find_spec("openvino") is not None


class Converted:
    """The forward pass of a network, computed by OpenVINO.

    It takes as many threads as PyTorch would. The network is converted when windows of
    a new shape come; that takes about as long as two forward passes, and any error may
    be raised if OpenVINO cannot take the network.

    Parameters
    ----------
    network
        On the processor, in evaluation mode.
    precision
        ``32`` or ``bf16``.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self._network = _First(network)
        self._precision = precision
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (B, C, Z, Y, X); the next call overwrites them."""
        shape = tuple(x.shape)
        if shape not in self._requests:
            self._requests[shape] = _prepare(self._network, shape, self._precision)
        results = self._requests[shape].infer(
            [x.contiguous().numpy()], share_inputs=True, share_outputs=True
        )
        return torch.from_numpy(results[0])


class _First(nn.Module):
    """The first of a network's outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)[0]
        return logits


def _prepare(network: nn.Module, shape: tuple[int, ...], precision: str) -> Any:
    """Return an inference request for windows of one shape."""
    ov = _openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every size that is fixed
        traced = TorchScriptPythonDecoder(
            network,
            example_input=torch.zeros(shape),
            trace_kwargs={"check_trace": False},
        )
        model = ov.convert_model(traced, input=list(shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Several processes would share the first cores and leave others idle.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _core().compile_model(model, "CPU", settings)
    return compiled.create_infer_request()


@lru_cache(maxsize=1)
def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    # It would report its use to its makers; it does without where this is not there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino

"""The forms in which the forward pass of a network can be computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from napari_volseg.config import Config
from napari_volseg.converted import Converted, has_openvino
from napari_volseg.devices import Compute, choose_compute, has_fast_bf16

__all__ = [
    "Form",
    "Pass",
    "build_pass",
    "default_form",
    "form_from_dict",
    "list_forms",
    "to_device",
]

Pass = Callable[[Tensor], Tensor]
"""From windows (B, C, Z, Y, X) on the device to logits (B, 3, Z, Y, X)."""

Backend = Literal["auto", "torch", "openvino"]

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Form:
    """Where, in which numbers and by what a forward pass is computed."""

    compute: Compute
    engine: Literal["eager", "compiled", "openvino"] = "eager"
    """PyTorch as it is, compiled by ``torch.compile``, or OpenVINO."""

    def __str__(self) -> str:
        more = {"eager": "", "compiled": ", compiled", "openvino": ", OpenVINO"}
        return f"{self.compute}{more[self.engine]}"

    @property
    def label(self) -> str:
        """Its name among the forms of one device: ``OpenVINO float32``."""
        names = {
            "eager": "PyTorch",
            "compiled": "compiled PyTorch",
            "openvino": "OpenVINO",
        }
        return f"{names[self.engine]} {str(self.compute).partition(', ')[2]}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `form_from_dict` reads."""
        return asdict(self)


def form_from_dict(values: dict[str, Any]) -> Form:
    """Return a form from what `Form.to_dict` gave; the errors are those of a dict."""
    return Form(Compute(**values["compute"]), values["engine"])


def default_form(config: Config) -> Form:
    """Return the form that needs no trial: PyTorch, in the numbers of the training.

    A processor without instructions for bfloat16 takes float32, which is faster there
    and more exact.

    Raises
    ------
    DataError
        If the device is not there, or cannot do the number format.
    """
    compute = choose_compute(config)
    if compute.device == "cpu" and compute.precision != "32" and not has_fast_bf16():
        compute = replace(compute, precision="32")
    return Form(compute)


def list_forms(default: Form, backend: Backend, *, exact: bool) -> list[Form]:
    """Return the forms that a device may have, the default first, then safe ones first.

    Parameters
    ----------
    backend
        What may compute them.
    exact
        Only float32.
    """
    device = default.compute.device
    forms = [default] if backend != "openvino" else []
    precisions = ["32"] if exact else _precisions(device)
    computes = [
        Compute(device, precision, channels_last)
        for precision in precisions
        for channels_last in (False, True)
        if not (channels_last and device == "mps")
    ]
    if backend != "openvino":
        forms += [Form(compute) for compute in computes]
        if device == "cuda":  # on a processor it takes a minute and a compiler
            forms += [Form(replace(computes[-1]), "compiled")]
    if backend != "torch" and device == "cpu" and has_openvino():
        forms += [Form(Compute(device, p, False), "openvino") for p in precisions]
    return list(dict.fromkeys(forms))


def to_device(network: nn.Module, compute: Compute) -> nn.Module:
    """Return the same network on the device, in its layout and evaluation mode."""
    network = network.to(compute.device).eval()
    return network.to(memory_format=compute.memory_format)  # type: ignore[call-overload, no-any-return]


def build_pass(network: nn.Module, form: Form) -> Pass:
    """Return the forward pass of a network in a form.

    Whether the network can be had in this form shows when it is first called: then it
    is compiled or converted, which may raise anything.

    Parameters
    ----------
    network
        As `to_device` left it; it is in evaluation mode when it is called.
    """
    compute = form.compute
    if form.engine == "openvino":
        return Converted(network, compute.precision)
    run = torch.compile(network) if form.engine == "compiled" else network
    # Not in half precision: the mode comes before autocast, and there it is not needed.
    is_exact = compute.device == "cpu" and compute.precision == "32"
    convolving = _OneDNN if is_exact and _HAS_ONEDNN else nullcontext

    def forward(x: Tensor) -> Tensor:
        with compute.autocast(), convolving():
            logits: Tensor = run(x.contiguous(memory_format=compute.memory_format))[0]
        return logits

    return forward


class _OneDNN(TorchFunctionMode):
    """Let oneDNN compute the convolutions of a single window, without gradients.

    PyTorch leaves those of few values to a method that takes up to ten times as long
    (`use_mkldnn` in ATen/native/Convolution.cpp, where the batch is 1).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv3d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            is_single = len(x) == 1 and x.dtype == torch.float32
            is_numbers = not isinstance(padding, str)
            if is_single and is_numbers and not torch.is_grad_enabled():
                return torch.ops.aten.mkldnn_convolution(
                    x, weight, bias, padding, stride, dilation, groups
                )
        return func(*args, **(kwargs or {}))


def _precisions(device: str) -> list[str]:
    """Return the number formats that a device computes fast, exact ones first."""
    if device == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["32", "16", *(["bf16"] if has_bf16 else [])]
    if device == "cpu":
        return ["32", *(["bf16"] if has_fast_bf16() else [])]
    return ["32"]

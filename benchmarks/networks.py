"""Compare what a training step of each network costs, relative to RSUNet's.

Usage: python benchmarks/networks.py [--rounds N] [--patch Z Y X] [--bf16]
       [--channels-last] [--device cpu|cuda] [NAME …]

Every round times one forward and backward pass of every network in turn, on one
thread and in processor seconds on a CPU, so that other work on the machine hardly
counts; medians over rounds are divided by that of rsunet. *kept* is what the forward
pass keeps for the gradient. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.config import ModelConfig
from napari_volseg.networks import Pyramid, build_network, check_model, plan_pyramid

VOXEL_SIZE = (30.0, 8.0, 8.0)
NETWORKS: dict[str, dict[str, object]] = {
    "rsunet": {},
    "rsunet, 2 blocks": {"rsunet_blocks": 2},
    "rsunet, concat": {"rsunet_skip": "concat"},
    "rsunet, attention skips": {"rsunet_skip": "attention"},
    "rsunet, dense": {"rsunet_skip": "dense"},
    "rsunet, spatial attention": {"rsunet_attention": True},
    "rsunet, checkpointing": {"gradient_checkpointing": True},
    "rsunet, deep supervision": {"deep_supervision": True},
    "monai_unet": {},
    "monai_unet, transposed": {"monai_upsample": "transposed"},
    "monai_dynunet": {},
    "monai_dynunet, transposed": {"monai_upsample": "transposed"},
    "monai_attention_unet": {},
    "monai_segresnet": {},
    "monai_basic_unetplusplus": {"filters": (24, 48, 96, 192, 384)},
    "monai_swin_unetr": {},
    "monai_unetr": {},
    "mednext, S": {"mednext_size": "S"},
    "mednext, S, transposed": {"mednext_size": "S", "monai_upsample": "transposed"},
    "mednext, B": {"mednext_size": "B"},
    "mednext, M": {"mednext_size": "M"},
    "mednext, L": {"mednext_size": "L"},
}


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs=3, default=(16, 64, 64))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    layout = torch.channels_last_3d if args.channels_last else torch.contiguous_format
    image = torch.rand(1, 1, *args.patch, device=args.device)
    image = image.contiguous(memory_format=layout)
    names = ["rsunet", *(n for n in args.names or NETWORKS if n != "rsunet")]
    networks = {}
    for name in names:
        network, pyramid = build(name, args.patch)
        network = network.to(args.device).to(memory_format=layout)
        networks[name] = network, pyramid

    def run(network: nn.Module) -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            outputs = network(image)
        sum(o.float().mean() for o in outputs).backward()

    kept = {
        n: measure_kept(network, lambda net: net(image))
        for n, (network, _) in networks.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for network, _ in networks.values():
        run(network)
    for _ in range(args.rounds):
        for name, (network, _) in networks.items():
            seconds[name].append(measure_seconds(args.device, run, network))
    base_s, base_kept = median(seconds["rsunet"]), kept["rsunet"]
    print(f"rsunet: {base_s:.2f} s, {base_kept / 2**20:.0f} MiB kept\n")
    print("| network | parameters (M) | time | kept | multiple (z, y, x) |")
    print("|---|---|---|---|---|")
    for name, (network, pyramid) in networks.items():
        size = sum(p.numel() for p in network.parameters()) / 1e6
        ratio = median(seconds[name]) / base_s
        multiple = ", ".join(map(str, pyramid.multiple))
        print(
            f"| {name} | {size:.2f} | {ratio:.2f} | {kept[name] / base_kept:.2f} "
            f"| {multiple} |",
            flush=True,
        )


def build(name: str, patch: tuple[int, int, int]) -> tuple[nn.Module, Pyramid]:
    model = ModelConfig(architecture=name.split(",")[0], **NETWORKS[name])  # type: ignore[arg-type]
    check_model(model)
    torch.manual_seed(0)
    pyramid = plan_pyramid(model, VOXEL_SIZE, patch)
    return build_network(model, 1, pyramid).train(), pyramid


def measure_kept(network: nn.Module, forward: Callable[[nn.Module], object]) -> int:
    """Return the bytes that a forward pass keeps, parameters left out."""
    sizes: dict[int, int] = {}
    alive: list[torch.Tensor] = []
    own = {t.data_ptr() for t in (*network.parameters(), *network.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            alive.append(tensor)
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(network)
    return sum(sizes.values())


def measure_seconds(
    device: str, run: Callable[[nn.Module], None], network: nn.Module
) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    started = clock()
    run(network)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


if __name__ == "__main__":
    main()

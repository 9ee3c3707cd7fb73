"""Which networks of torchvision and timm attention can be plugged into: make the table of book/plugged_networks.md.

    python tools/plug_table.py

Each network is built without pretrained weights and plugged with shared SE modules, for images of 64 × 64 pixels (of
224 × 224 where it takes no others). With nothing connected, scores and gradients must be those of the backbone, to the
bit. `tests/networks/test_plug_table.py` makes the rows anew and compares them with the page.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ean_lib.networks import as_chain, plug
from ean_lib.runs import write_atomically
from ean_lib.schemes import Scheme

PAGE = Path(__file__).resolve().parent.parent / "book" / "plugged_networks.md"
TORCHVISION = (
    "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "efficientnet_b0",
    "regnet_y_400mf", "convnext_tiny", "densenet121", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet", "vgg11_bn",
    "swin_t", "vit_b_16",
)  # fmt: skip
TIMM = (
    "resnet26d", "resnetv2_50", "nf_resnet26", "res2net50_26w_4s", "seresnet50", "skresnet18", "convnext_atto",
    "regnetx_002", "mobilenetv3_small_050", "efficientnet_lite0", "ghostnet_100", "cspresnet50", "darknet53", "dla34",
    "hrnet_w18_small", "repvgg_a0", "poolformer_s12", "mobilevit_xxs", "vovnet39a", "rexnet_100",
)  # fmt: skip
ONLY_224 = ("swin_t", "vit_b_16")

HEAD = """# Networks that attention can be plugged into

`find_branches` watches a network compute, and finds the sums of its residual blocks. `plug` puts a shared attention
module there. The table shows what that gives for networks of torchvision and timm, with SE. *Equal* says that with
nothing connected, the scores and all gradients are those of the network itself, to the bit. *Chain* says that the
scorer shares the work of schemes that begin alike; any other network is scored scheme by scheme.

Where the answer is no, modules can still be named: `plug(net, "se", branches=["features.denseblock1.*.conv2"])`.

| network | plugged | stages | parameters added | equal | chain |
| --- | --- | --- | ---: | --- | --- |
"""


def row(name: str) -> str:
    """One line of the table, for "torchvision:NAME" or "timm:NAME"."""
    net = build(name)
    size = 224 if name.partition(":")[2] in ONLY_224 else 64
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, size, size, generator=generator)
    try:
        plugged = plug(net, "se", example=images, seed=0).eval()
    except ValueError as error:
        reason = str(error).partition(": ")[2].partition("; name the modules")[0]
        return f"| {name} | no: {reason} | | | | |"
    added = sum(parameter.numel() for parameter in plugged.attention_modules.parameters())
    stages = "·".join(map(str, plugged.stages))
    equal = "yes" if equal_without_attention(net.eval(), plugged, images) else "NO"
    chain = "yes" if as_chain(plugged) is not None else "no"
    return f"| {name} | yes | {stages} | {added:,} | {equal} | {chain} |"


def build(name: str) -> nn.Module:
    """The network, with weights drawn from seed 0 and 10 classes."""
    library, _, kind = name.partition(":")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that weights are not those of ImageNet, and that names will change
        torch.manual_seed(0)
        if library == "timm":
            import timm

            return timm.create_model(kind, num_classes=10)
        from torchvision.models import get_model

        return get_model(kind, weights=None, num_classes=10)


def equal_without_attention(net: nn.Module, plugged: nn.Module, images: Tensor) -> bool:
    """Whether scores and gradients are the backbone's, to the bit, when nothing is connected."""
    expected, got = net(images), plugged(images, Scheme.none(plugged.stages))
    expected.square().sum().backward()
    got.square().sum().backward()
    pairs = zip(net.parameters(), plugged.backbone.parameters(), strict=True)
    gradients = all((a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad) for a, b in pairs)
    return torch.equal(expected, got) and gradients


def names() -> list[str]:
    return [f"torchvision:{name}" for name in TORCHVISION] + [f"timm:{name}" for name in TIMM]


def main() -> None:
    lines = []
    for name in names():
        lines.append(row(name))
        print(lines[-1], file=sys.stderr, flush=True)
    write_atomically(PAGE, HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""How long a batch of Grad-CAM maps takes, ours and pytorch-grad-cam's, in one run.

    python benchmarks/gradcam.py                                       # torchvision's ResNet-18, 64 images of 64x64
    python benchmarks/gradcam.py --backbone resnet20 --size 32 --layer layer3

Both are timed in turn; the ratio is taken within a round, and its median and extremes are printed. The maps must be
equal, or the benchmark fails. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from ean_lib.devices import device_name
from ean_lib.learning.gradcam import grad_cam
from ean_lib.networks import build_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="torchvision:resnet18", help="torchvision:NAME, or one of ean_lib's")
    parser.add_argument("--attention", default="se", help="of a backbone of ean_lib")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    library, _, name = options.backbone.rpartition(":")
    net = torchvision.models.get_model(name, weights=None) if library else build_network(name, options.attention)
    net = net.to(device).eval()
    x = torch.randn(options.images, 3, options.size, options.size, device=device)
    with torch.no_grad():
        targets = net(x).argmax(1)
    layer = net.get_submodule(options.layer)

    reference = GradCAM(net, [layer])
    wanted = [ClassifierOutputTarget(t) for t in targets.tolist()]

    def timed(ours: bool) -> tuple[float, Tensor]:
        began = time.perf_counter()
        maps = grad_cam(net, x, targets, layer).cpu() if ours else torch.from_numpy(reference(x, wanted))
        return time.perf_counter() - began, maps

    timed(True), timed(False)  # warm-up
    ratios = []
    for _ in range(options.rounds):
        reference.activations_and_grads.release()  # its hooks would slow our turn
        mine, maps = timed(True)
        reference = GradCAM(net, [layer])
        theirs, expected = timed(False)
        if (difference := (maps - expected).abs().max()) > 1e-5:
            raise SystemExit(f"the maps differ by {difference:.1e}")
        ratios.append(theirs / mine)
        print(f"ours {1000 * mine:.0f} ms, pytorch-grad-cam {1000 * theirs:.0f} ms, {ratios[-1]:.2f} times", flush=True)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{options.backbone}, {options.images} images of {options.size}x{options.size}, {device_name(device)}")
    print(f"pytorch-grad-cam / ours: median {statistics.median(ratios):.2f}, {spread}; equal maps")


if __name__ == "__main__":
    main()

"""The map viewer: move through the blocks of a network, choose a class, and see map and picture blend.

Like the scheme explorer it is an anywidget where there is a kernel, and complete in itself in a published page.
"""

import html
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import traitlets
from PIL import Image
from torch import Tensor

from ean_lib.learning.gradcam import grad_cam
from ean_lib.networks import Network
from ean_lib.widgets.page import PageWidget

HALF = 2  # maps are smooth: at half the size, they take a quarter of the page


class MapViewer(PageWidget):
    """Grad-CAM maps of a few pictures after every block of some networks, for every class.

    Args:
        networks: by the name that is shown; all for the same classes and with equally many blocks.
        x: the pictures as the networks get them, (B, C, H, W).
        pictures: the same as they are to be seen, (B, 3, H, W), 0 to 1.
        labels: what they show, class indices (B,).
        class_names: of all classes.
        name: of this viewer among those of a page.

    Raises:
        ValueError: if pictures, labels and x are not equally many, or the name has other characters than letters,
            digits, - and _.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    content = traitlets.Dict().tag(sync=True, page=True)

    def __init__(
        self, networks: Mapping[str, Network], x: Tensor, pictures: Tensor, labels: Sequence[int],
        class_names: Sequence[str], *, name: str = "maps",
    ) -> None:  # fmt: skip
        if not len(x) == len(pictures) == len(labels) > 0:
            raise ValueError(f"{len(x)} inputs, {len(pictures)} pictures and {len(labels)} labels do not fit together.")
        described = [network_content(title, net, x, len(class_names)) for title, net in networks.items()]
        last = len(described[-1]["blocks"]) - 1
        shown = zip(pictures.permute(0, 2, 3, 1), labels, strict=True)
        content = {
            "classes": list(class_names),
            "pictures": [{"address": address(picture), "label": int(label)} for picture, label in shown],
            "networks": described,
            "shown": {"network": len(described) - 1, "picture": 0, "class": int(labels[0]), "block": last, "blend": 60},
        }
        super().__init__(name, content=content)

    def describe(self) -> str:
        """How many pictures there are, and of which networks the maps."""
        names = ", ".join(network["name"] for network in self.content["networks"])
        return f"Grad-CAM maps of {len(self.content['pictures'])} pictures after every block of: {names}."

    def draw(self) -> str:
        """The pictures without their maps."""
        seen = [(html.escape(self.content["classes"][p["label"]]), p["address"]) for p in self.content["pictures"]]
        return "".join(f'<img src="{source}" width="64" alt="{name}">' for name, source in seen)


def address(image: Tensor) -> str:
    """A data address of an image (H, W) or (H, W, 3) of values from 0 to 1, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray((255 * image).round().byte().cpu().numpy()).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def network_content(title: str, net: Network, x: Tensor, classes: int) -> dict[str, Any]:
    """What the page needs of a network: its blocks, its answers, and for each picture all maps in one image."""
    layers = net.block_modules()
    places = zip(net.connections(), net.scheme.bits, strict=True)
    blocks = [f"stage {s}, block {i + 1}" + (", connected" if on else "") for (s, i, _), on in places]
    with torch.no_grad():
        percent, says = (100 * net.eval()(x).softmax(1)).max(1)
    answers = [{"says": int(s), "percent": round(float(p))} for s, p in zip(says, percent, strict=True)]
    maps = []
    for image in x:
        same = image.expand(classes, -1, -1, -1)  # one picture, a question for each class
        rows = [F.avg_pool2d(grad_cam(net, same, range(classes), layer), HALF) for layer in layers]  # (classes, h, w)
        maps.append(address(torch.cat([torch.cat([*row], dim=1) for row in rows])))  # (blocks h, classes w)
    return {"name": title, "blocks": blocks, "answers": answers, "maps": maps}

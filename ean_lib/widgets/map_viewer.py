"""The map viewer: move through the blocks of a network, choose a class, and see map and picture blend.

Like the scheme explorer it is an anywidget where there is a kernel, and complete in itself in a published page.
"""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import torch
import torch.nn.functional as F
import traitlets
from PIL import Image
from torch import Tensor

from ean_lib.gradcam import grad_cam
from ean_lib.networks import AttentionResNet
from ean_lib.widgets.page import check_name, page_form

HALF = 2  # maps are smooth: at half the size, they take a quarter of the page


class MapViewer(anywidget.AnyWidget):
    """Grad-CAM maps of a few pictures after every block of some networks, for every class.

    Args:
        networks: by the name that is shown; all for the same classes and with equally many blocks.
        x: the pictures as the networks get them, (B, C, H, W).
        pictures: the same as they are to be seen, (B, 3, H, W), 0 to 1.
        labels: what they show, class indices (B,).
        class_names: of all classes.
        name: of this viewer among those of a page.
        shown: what to begin with: `network`, `picture`, `class`, `block` (indices) and `blend` (0 to 100).

    Raises:
        ValueError: if pictures, labels and x are not equally many.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    name = traitlets.Unicode().tag(sync=True)
    content = traitlets.Dict().tag(sync=True)

    def __init__(
        self, networks: Mapping[str, AttentionResNet], x: Tensor, pictures: Tensor, labels: Sequence[int],
        class_names: Sequence[str], *, name: str = "maps", shown: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        if not len(x) == len(pictures) == len(labels) > 0:
            raise ValueError(f"{len(x)} inputs, {len(pictures)} pictures and {len(labels)} labels do not fit together.")
        seen = [(255 * picture).round().byte().permute(1, 2, 0).cpu().numpy() for picture in pictures]
        described = [describe(title, net, x, len(class_names)) for title, net in networks.items()]
        last = len(described[-1]["blocks"]) - 1
        start = {"network": len(networks) - 1, "picture": 0, "class": int(labels[0]), "block": last, "blend": 60}
        content = {
            "classes": list(class_names),
            "pictures": [{"address": address(p), "label": int(label)} for p, label in zip(seen, labels, strict=True)],
            "networks": described,
            "shown": start | dict(shown or {}),
        }
        super().__init__(name=check_name(name), content=content)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        names = ", ".join(network["name"] for network in self.content["networks"])
        sentence = f"Grad-CAM maps of {len(self.content['pictures'])} pictures after every block of: {names}."
        seen = [(p["address"], html.escape(self.content["classes"][p["label"]])) for p in self.content["pictures"]]
        pictures = "".join(f'<img src="{source}" width="64" alt="{name}">' for source, name in seen)
        state = {"name": self.name, "content": self.content}
        form = page_form(state, self._esm, self._css, pictures, f"{sentence} Where scripts run, they can be seen here.")
        return bundle | {"text/plain": sentence, "text/html": form}, metadata


def address(pixels: Any) -> str:
    """A data address of an image, uint8 (H, W) or (H, W, 3), as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def describe(title: str, net: AttentionResNet, x: Tensor, classes: int) -> dict[str, Any]:
    """What the page needs of a network: its blocks, its answers, and for each picture all maps in one image."""
    marks = [", connected" if on else "" for on in net.scheme.bits]
    layers = [block for stage in net.stage_modules() for block in stage.blocks]
    places = [f"stage {s}, block {i + 1}" for s, i, _ in net.connections()]
    with torch.no_grad():
        percent, says = (100 * net.eval()(x).softmax(1)).max(1)
    maps = []
    for image in x:
        same = image.expand(classes, -1, -1, -1)  # one picture, a question for each class
        rows = [F.avg_pool2d(grad_cam(net, same, range(classes), layer), HALF) for layer in layers]  # (classes, h, w)
        every = torch.cat([torch.cat([*row], dim=1) for row in rows])  # (blocks h, classes w)
        maps.append(address((255 * every).round().byte().cpu().numpy()))
    answers = [{"says": int(s), "percent": round(float(p))} for s, p in zip(says, percent, strict=True)]
    blocks = [place + mark for place, mark in zip(places, marks, strict=True)]
    return {"name": title, "blocks": blocks, "answers": answers, "maps": maps}

"""The map viewer: move through the blocks of a network, choose a class, and see map and picture blend.

Like the scheme explorer it is an anywidget where there is a kernel, and complete in itself in a published page.
"""

import html
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import traitlets
from PIL import Image
from torch import Tensor

from ean_lib.checks import check
from ean_lib.learning.gradcam import grad_cam
from ean_lib.networks import Network, eval_mode, network_dtype
from ean_lib.widgets.modules import join_modules, join_styles
from ean_lib.widgets.page import PageWidget, check_name

HALF = 2  # maps are smooth: at half the size, they take a quarter of the page
ROUNDING = 1e-4  # how far a picture may leave 0 to 1: normalising it and back rounds


class MapViewer(PageWidget):
    """Grad-CAM maps of a few pictures after every block of some networks, for every class.

    Args:
        networks: by the name that is shown; all for the same classes and with equally many blocks. They are left as
            they were, in training mode too.
        x: the pictures as the networks get them, (B, C, H, W).
        pictures: the same as they are to be seen, (B, 3, H, W), or (B, 1, H, W) in grey, 0 to 1.
        labels: what they show, class indices (B,).
        class_names: of all classes that the networks tell apart, in order.
        name: of this viewer among those of a page.

    Raises:
        ValueError: if networks, pictures, labels, classes and x do not fit together, pictures are not within 0 to 1,
            or the name has other characters than letters, digits, - and _.
    """

    _esm = join_modules("map_viewer.js")
    _css = join_styles("map_viewer.css")
    content = traitlets.Dict().tag(sync=True, page=True)

    def __init__(
        self,
        networks: Mapping[str, Network],
        x: Tensor,
        pictures: Tensor,
        labels: Sequence[int],
        class_names: Sequence[str],
        *,
        name: str = "maps",
    ) -> None:
        check_name(name)  # before the maps, which take a while
        is_named = isinstance(networks, Mapping) and bool(networks)
        check("the networks to view", networks, is_named, "at least one, by name")
        for title, net in networks.items():
            check(f"the network {title!r}", type(net).__name__, isinstance(net, Network), "a Network of ean_lib")
        x, pictures = torch.as_tensor(x), torch.as_tensor(pictures)
        if not len(x) == len(pictures) == len(labels) > 0:
            raise ValueError(f"{len(x)} inputs, {len(pictures)} pictures and {len(labels)} labels do not fit together.")
        class_names = list(class_names)
        shown = checked_pictures(pictures).permute(0, 2, 3, 1)  # (B, H, W, 3)
        labels = checked_labels(labels, len(class_names))
        described = [network_content(title, net, x, len(class_names)) for title, net in networks.items()]
        depths = {network["name"]: len(network["blocks"]) for network in described}
        check("the networks' numbers of blocks", depths, len(set(depths.values())) == 1, "equal")
        content = {
            "classes": class_names,
            "pictures": [{"address": address(picture), "label": n} for picture, n in zip(shown, labels, strict=True)],
            "networks": described,
            "shown": {  # the last network, after its last block: that is nearest to the answer
                "network": len(described) - 1,
                "picture": 0,
                "class": labels[0],
                "block": len(described[-1]["blocks"]) - 1,
                "blend": 60,
            },
        }
        super().__init__(name, content=content)

    def describe(self) -> str:
        """How many pictures there are, and of which networks the maps."""
        names = ", ".join(network["name"] for network in self.content["networks"])
        return f"Grad-CAM maps of {len(self.content['pictures'])} pictures after every block of: {names}."

    def draw(self) -> str:
        """The pictures without their maps."""
        images = []
        for picture in self.content["pictures"]:
            alternative = html.escape(self.content["classes"][picture["label"]])
            images.append(f'<img src="{picture["address"]}" width="64" alt="{alternative}">')
        return "".join(images)


def address(image: Tensor) -> str:
    """A data address of an image (H, W) or (H, W, 3) of values from 0 to 1, as PNG."""
    pixels = (255 * image).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def checked_pictures(pictures: Tensor) -> Tensor:
    """Pictures as (B, 3, H, W), a grey one in all three colours.

    Raises:
        ValueError: if they have another shape, or values that are not within 0 to 1.
    """
    shape = tuple(pictures.shape)
    is_shaped = len(shape) == 4 and shape[1] in (1, 3)
    check("the pictures' shape", shape, is_shaped, "(pictures, 3, height, width), or (pictures, 1, height, width)")
    low, high = pictures.min().item(), pictures.max().item()
    if not (pictures.is_floating_point() and low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(
            f"the pictures to be seen must be numbers from 0 to 1, got {pictures.dtype} from {low:g} to {high:g};"
            " divide bytes by 255, and give normalised images as `x` only"
        )
    return pictures.clamp(0, 1).expand(-1, 3, -1, -1)


def checked_labels(labels: Sequence[int], classes: int) -> list[int]:
    """Labels as Python's numbers; `ValueError` unless each is one of the classes."""
    try:
        numbers = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):  # such as texts
        numbers = torch.tensor(torch.nan)
    is_whole = numbers.dim() == 1 and not numbers.is_floating_point() and numbers.dtype != torch.bool
    within = is_whole and int(numbers.min()) >= 0 and int(numbers.max()) < classes
    check("labels", list(labels), within, f"one class index per picture, in 0..{classes - 1} of the class names")
    return numbers.tolist()


def network_content(title: str, net: Network, x: Tensor, classes: int) -> dict[str, Any]:
    """What the page needs of a network: its blocks, its answers, and for each picture all maps in one image."""
    with eval_mode(net), torch.no_grad():
        scores = net(x.to(network_dtype(net)))
    if scores.shape[1] != classes:
        raise ValueError(f"the network {title!r} tells {scores.shape[1]} classes apart, but {classes} names are given")
    blocks = []
    for (stage, block, _), is_connected in zip(net.connections(), net.scheme.bits, strict=True):
        blocks.append(f"stage {stage}, block {block + 1}" + (", connected" if is_connected else ""))
    answers = []
    for share, answer in zip(*scores.softmax(1).max(1), strict=True):
        answers.append({"says": int(answer), "percent": round(100 * float(share))})
    maps = [maps_of(net, image, classes) for image in x]
    return {"name": title, "blocks": blocks, "answers": answers, "maps": maps}


def maps_of(net: Network, image: Tensor, classes: int) -> str:
    """All maps of a picture in one image's address: (blocks * h, classes * w), a row per block, a column per class."""
    repeated = image.expand(classes, -1, -1, -1)  # one picture, a question for each class
    rows = []
    for layer in net.block_modules():
        maps = F.avg_pool2d(grad_cam(net, repeated, range(classes), layer), HALF)  # (classes, h, w)
        rows.append(torch.cat([*maps], dim=1))
    return address(torch.cat(rows))

"""Pictures in a grid, alone or with the maps of several networks over them."""

from collections.abc import Mapping, Sequence
from math import ceil

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ean_lib.plots.canvas import canvas
from ean_lib.plots.palette import RIGHT, WRONG


def pictures(images: Tensor, titles: Sequence[str], columns: int = 4) -> Figure:
    """Images (B, 3, H, W), 0 to 1, with a title each."""
    rows = ceil(len(images) / columns)
    figure, axes = canvas(1.75 * rows, rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image.permute(1, 2, 0))
        axis.set_title(title, fontsize=11)
    return figure


def overlay(axis: Axes, image: Tensor, cam: Tensor) -> None:
    """An image (C, H, W), 0 to 1, in grey, and over it a map (H, W), 0 to 1, in colour."""
    axis.imshow(image.mean(0), cmap="gray", vmin=0, vmax=1)
    axis.imshow(cam.cpu(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    axis.axis("off")


def outline(axis: Axes, solid: Tensor, dotted: Tensor | None = None) -> None:
    """The edge of one mask (H, W) as a line, and of another one dotted."""
    for mask, style in ((solid, "-"), (dotted, ":")):
        if mask is not None and bool(torch.as_tensor(mask).any()):
            axis.contour(mask, [0.5], colors="white", linestyles=style, linewidths=1.5)


def pictures_with_maps(
    images: Tensor,
    truths: Sequence[str],
    maps: Mapping[str, Tensor],
    answers: Mapping[str, Sequence[str]],
    notes: Mapping[str, Sequence[str]] | None = None,
    masks: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> Figure:
    """A row per picture: what it is, and the map of every network under what that network says.

    Args:
        images: (B, 3, H, W), 0 to 1.
        truths: what each picture shows.
        maps: name of a network -> maps (B, H, W), 0 to 1.
        answers: name of a network -> what it says of each picture; in green if it is the truth, else in orange.
        notes: name of a network -> what stands behind each answer, such as its probability.
        masks: for each picture the masks (H, W) whose edges are drawn solid and dotted.
    """
    figure, axes = canvas(1.75 * len(images), len(images), 1 + len(maps), squeeze=False)
    for row, line in enumerate(axes):
        line[0].imshow(images[row].permute(1, 2, 0))
        line[0].set_title(f"it is:\n{truths[row]}", fontsize=10)
        line[0].axis("off")
        for axis, (name, of_network) in zip(line[1:], maps.items(), strict=True):
            overlay(axis, images[row], of_network[row])
            if masks is not None:
                outline(axis, *masks[row])
            answer = answers[name][row]
            note = f", {notes[name][row]}" if notes else ""
            colour = RIGHT if answer == truths[row] else WRONG
            axis.set_title(f"{name}:\n{answer}{note}", fontsize=10, color=colour)
    return figure

"""cued_shapes: generated 32×32 images in which a cue says which object counts; exact ground truth.

On a grey grating, the four quadrants hold K objects of K different colours and one small cue, a checker patch
in the colour of one of the objects. The label is the shape of that object; the others are distractors. No
local filter can tell which object counts, but a channel gate computed from the whole image can: attention's
lesson made small. A quadrant is one 16×16 tile, so that an image is four tiles drawn from signed distances.

Image i depends on (seed, stream, i) and the options alone, not on how many images are generated with it, and
each run of 8 images holds each class once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from ean_lib.checks import check, check_number
from ean_lib.data.splits import SPLIT_SEED, Data, Split

SHAPES = ("disc", "square", "triangle", "cross", "ring", "star", "crescent", "bar")
COLOURS = ("red", "green", "blue")
RGB = np.array([[0.9, 0.2, 0.2], [0.2, 0.8, 0.2], [0.25, 0.3, 0.95]], dtype=np.float32)
TILE = 16  # pixels of a quadrant
CHUNK = 512  # images drawn from one random generator, a multiple of the number of classes
MEAN, STD = (0.49, 0.49, 0.48), (0.20, 0.18, 0.20)
Array = np.ndarray


@dataclass(frozen=True)
class CuedShapes:
    """Generated images with their ground truth; object 0 is the target. K is the number of objects.

    Masks, boxes and cue boxes are None where they were not asked for. A box is (left, top, right, bottom) in
    pixels, right and bottom exclusive.
    """

    images: Tensor  # uint8 (N, 3, 32, 32)
    labels: Tensor  # int64 (N,), index into SHAPES
    shapes: Tensor  # int64 (N, K), index into SHAPES
    colours: Tensor  # int64 (N, K), index into COLOURS
    quadrants: Tensor  # int64 (N, K + 1), of the objects and then of the cue: 0 1 above, 2 3 below
    target_masks: Tensor | None = None  # bool (N, 32, 32)
    distractor_masks: Tensor | None = None  # bool (N, 32, 32), all distractors together
    boxes: Tensor | None = None  # int16 (N, K, 4)
    cue_boxes: Tensor | None = None  # int16 (N, 4)


def load_cued_shapes(
    *, subset: int | None = None, seed: int = 0,
    objects: int = 3, cue_size: int = 10, noise: float = 0.05, contrast: float = 0.25,
) -> Data:  # fmt: skip
    """The dataset in three parts, class-balanced and generated anew at each call (about a second).

    `seed` generates the training part; search-val and test, of 2,000 images each, are the same for all seeds.
    `subset` is the number of training images, 12,000 where it is None; it can be larger. The rest is as in
    `make_cued_shapes`.
    """
    count = 12_000 if subset is None else check_number("subset", subset, low=1, high=2**31 - 1, whole=True)

    def part(count: int, seed: int, stream: int) -> Split:
        pictures = make_cued_shapes(
            count, seed, objects=objects, cue_size=cue_size, noise=noise, contrast=contrast, stream=stream, masks=False
        )
        return Split(pictures.images, pictures.labels, MEAN, STD)

    train = part(count, seed, stream=0)
    val = part(2_000, SPLIT_SEED, stream=1)
    test = part(2_000, SPLIT_SEED, stream=2)
    return Data("cued_shapes", len(SHAPES), SHAPES, (2 * TILE, 2 * TILE), MEAN, STD, train, val, test)


def make_cued_shapes(
    count: int, seed: int = 0, *, objects: int = 3, cue_size: int = 10, noise: float = 0.05,
    contrast: float = 0.25, stream: int = 0, masks: bool = True,
) -> CuedShapes:  # fmt: skip
    """Generates `count` images, on as many threads as torch uses.

    Args:
        seed, stream: different pairs give unrelated images.
        objects: K, 1 to 3; the fourth quadrant is the cue's.
        cue_size: side of the checker patch in pixels, an even number from 2 to 14; smaller is harder.
        noise: standard deviation of the noise of each pixel and colour, 0 to 1; full brightness is 1.
        contrast: largest amplitude of the background's grating, 0 to 0.5.
        masks: also give masks and boxes.

    Raises:
        ValueError: an option out of range.
    """
    count = check_number("count", count, low=1, high=2**31 - 1, whole=True)
    seed = check_number("seed", seed, high=2**63 - 1, whole=True)
    stream = check_number("stream", stream, high=2**63 - 1, whole=True)
    objects = check_number("objects", objects, low=1, high=3, whole=True)
    check("cue_size", cue_size, cue_size in range(2, TILE - 1, 2), f"an even number in 2..{TILE - 2}")
    noise = check_number("noise", noise, high=1)
    contrast = check_number("contrast", contrast, high=0.5)

    def chunk(number: int) -> dict[str, Array]:
        rng = np.random.default_rng([seed, stream, number])
        drawn = draw_chunk(rng, objects, cue_size, noise, contrast, masks)
        wanted = count - number * CHUNK  # fewer than a chunk in the last one
        return {name: values[:wanted] for name, values in drawn.items()}

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        chunks = list(pool.map(chunk, range(-(-count // CHUNK))))  # rounded up
    fields = {}
    for name in chunks[0]:
        fields[name] = torch.from_numpy(np.concatenate([drawn[name] for drawn in chunks]))
    return CuedShapes(**fields)


def draw_chunk(
    rng: np.random.Generator, objects: int, cue_size: int, noise: float, contrast: float, masks: bool
) -> dict[str, Array]:
    """One chunk of images; arrays named as the fields of `CuedShapes`."""
    n, k = CHUNK, objects
    image = np.arange(n)  # the index of each image, to write into its quadrants
    all_classes = np.tile(np.arange(len(SHAPES)), (n // len(SHAPES), 1))
    labels = rng.permuted(all_classes, axis=1).reshape(n)  # each run of 8 images holds each class once
    distractors = rng.integers(len(SHAPES), size=(n, k - 1))
    shapes = np.concatenate([labels[:, None], distractors], axis=1)
    colours = np.array(list(permutations(range(3))))[rng.integers(6, size=n), :k]
    quadrants = np.array(list(permutations(range(4))))[rng.integers(24, size=n), : k + 1]
    of_objects, of_cue = quadrants[:, :k], quadrants[:, k]

    alpha = np.zeros((n, 4, TILE, TILE), np.float32)  # how much of a pixel is an object's or the cue's
    alpha[image[:, None], of_objects] = draw_objects(rng, shapes)
    alpha[image, of_cue], corners = draw_cues(rng, n, cue_size)
    tint = np.zeros((n, 4, 3), np.float32)
    brightness = rng.uniform(0.8, 1, (n, k, 1)).astype(np.float32)
    tint[image[:, None], of_objects] = RGB[colours] * brightness
    tint[image, of_cue] = RGB[colours[:, 0]]

    ground = untile(draw_gratings(rng, n, contrast) * (1 - alpha))
    pixels = rng.standard_normal((n, 3, 2 * TILE, 2 * TILE), np.float32)
    pixels *= 255 * noise
    for c in range(3):
        figures = untile(alpha * tint[:, :, c, None, None])
        pixels[:, c] += 255 * (ground + figures) + 0.5  # to round
    images = np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
    drawn = {"images": images, "labels": labels, "shapes": shapes, "colours": colours, "quadrants": quadrants}
    if masks:
        drawn |= ground_truth(alpha, quadrants, corners, cue_size)
    return drawn


def untile(tiles: Array) -> Array:
    """Quadrants (n, 4, 16, 16) put together: (n, 32, 32)."""
    n = len(tiles)
    return tiles.reshape(n, 2, 2, TILE, TILE).swapaxes(2, 3).reshape(n, 2 * TILE, 2 * TILE)


def ground_truth(alpha: Array, quadrants: Array, corners: Array, cue_size: int) -> dict[str, Array]:
    """Masks of the pixels that an object covers at least half, and boxes around them and the cue."""
    k = quadrants.shape[1] - 1
    of_objects = quadrants[:, :k]
    solid = alpha >= 0.5
    is_target = np.arange(4) == quadrants[:, :1]  # (n, 4)
    is_distractor = (np.arange(4) == quadrants[:, 1:k, None]).any(axis=1)
    target, distractors = is_target[:, :, None, None], is_distractor[:, :, None, None]

    origin = np.stack([quadrants % 2, quadrants // 2], axis=-1) * TILE  # (n, K + 1, 2), left and top
    tiles = solid[np.arange(len(alpha))[:, None], of_objects]  # (n, K, 16, 16)
    sides = [tiles.any(axis=2), tiles.any(axis=3)]  # along x and along y
    first = np.stack([side.argmax(-1) for side in sides], axis=-1)
    last = np.stack([TILE - side[..., ::-1].argmax(-1) for side in sides], axis=-1)
    boxes = np.concatenate([first + origin[:, :k], last + origin[:, :k]], axis=-1)
    cue = corners + origin[:, k]
    return {
        "target_masks": untile(solid & target),
        "distractor_masks": untile(solid & distractors),
        "boxes": boxes.astype(np.int16),
        "cue_boxes": np.concatenate([cue, cue + cue_size], axis=-1).astype(np.int16),
    }


def draw_gratings(rng: np.random.Generator, n: int, contrast: float) -> Array:
    """Grey gratings (n, 4, 16, 16), of random direction, phase, frequency, contrast and brightness."""
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    frequency = 2 * np.pi * rng.uniform(0.05, 0.25, (n, 1, 1))  # radians per pixel: periods of 4 to 20 pixels
    amplitude = contrast * rng.uniform(0.2, 1, (n, 1, 1))
    brightness = rng.uniform(0.35, 0.65, (n, 1, 1))
    along, down = frequency * np.cos(angle), frequency * np.sin(angle)
    along, down, phase, amplitude, brightness = np.float32([along, down, phase, amplitude, brightness])
    at = np.arange(2 * TILE, dtype=np.float32)
    wave = np.cos(along * at + down * at[:, None] + phase) * amplitude + brightness
    return wave.reshape(n, 2, TILE, 2, TILE).swapaxes(2, 3).reshape(n, 4, TILE, TILE)


def draw_cues(rng: np.random.Generator, n: int, size: int) -> tuple[Array, Array]:
    """Checker patches (n, 16, 16) of cells of 2 pixels, and their corners (n, 2), left and top."""
    corners = rng.integers(1, TILE - size, size=(n, 2))
    across, down = np.arange(TILE) - corners[:, :1], np.arange(TILE) - corners[:, 1:]  # (n, 16)
    inside = ((across >= 0) & (across < size))[:, None] & ((down >= 0) & (down < size))[:, :, None]
    even = (across // 2)[:, None] % 2 == (down // 2)[:, :, None] % 2
    return (inside & even).astype(np.float32), corners


def draw_objects(rng: np.random.Generator, shapes: Array) -> Array:
    """Coverage (n, K, 16, 16), 0 to 1, of objects of random size, place and small rotation; soft edges."""
    flat = shapes.ravel()
    radius = rng.uniform(4.2, 5.6, len(flat)).astype(np.float32)[:, None, None]
    turn = rng.uniform(-0.25, 0.25, len(flat)).astype(np.float32)[:, None, None]  # radians
    middle = rng.uniform(-1, 1, (2, len(flat), 1, 1)).astype(np.float32) * (7.5 - 1.13 * radius) + TILE / 2
    at = np.arange(TILE, dtype=np.float32) + np.float32(0.5)
    x, y = (at - middle[0]) / radius, (at[:, None] - middle[1]) / radius
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    distance = np.empty_like(u)
    for shape, name in enumerate(SHAPES):
        members = flat == shape
        distance[members] = DISTANCES[name](u[members], v[members])
    return np.clip(0.5 - distance * radius, 0, 1).reshape(*shapes.shape, TILE, TILE)


def box(u: Array, v: Array, width: float, height: float) -> Array:
    """Signed distance to a rectangle of half-sides width and height."""
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def triangle(u: Array, v: Array) -> Array:
    """Signed distance to an upright triangle."""
    return np.maximum(v - 0.75, 0.866 * np.abs(u) - 0.5 * v - 0.5)


def star(u: Array, v: Array) -> Array:
    """Five rays: the plane is folded into half a ray, whose edge is one line from its tip to its notch."""
    tip, notch, half = 1.1, 0.42, np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + half) % (2 * half) - half)
    edge = np.array([notch * np.cos(half) - tip, notch * np.sin(half)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    along, across = np.hypot(u, v) * np.cos(angle), np.hypot(u, v) * np.sin(angle)
    return (along - tip) * normal[0] + across * normal[1]


# distance from the edge, below 0 inside, where v points down and 1 is the object's radius
DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.95,
    "square": lambda u, v: box(u, v, 0.8, 0.8),
    "triangle": triangle,
    "cross": lambda u, v: np.minimum(box(u, v, 1.0, 0.33), box(u, v, 0.33, 1.0)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.25,
    "star": star,
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 1.0, 0.8 - np.hypot(u - 0.5, v)),
    "bar": lambda u, v: box(u, v, 1.05, 0.3),
}

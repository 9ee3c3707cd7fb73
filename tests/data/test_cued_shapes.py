from __future__ import annotations

import dataclasses

import pytest
import torch

from ean_lib.data import load_data
from ean_lib.data.cued_shapes import COLOURS, RGB, SHAPES, make_cued_shapes


@pytest.fixture(scope="module", params=[1, 2, 3])
def made(request):
    return make_cued_shapes(640, seed=5, objects=request.param, noise=0.0)


def test_an_image_does_not_depend_on_how_many_are_generated():
    few, many = make_cued_shapes(20, seed=3), make_cued_shapes(1100, seed=3)
    for field in dataclasses.fields(few):
        assert torch.equal(getattr(few, field.name), getattr(many, field.name)[:20]), field.name


def test_images_depend_on_seed_and_stream_and_not_on_the_threads():
    threads = torch.get_num_threads()
    base = make_cued_shapes(1100, seed=3).images
    try:
        torch.set_num_threads(1)
        assert torch.equal(base, make_cued_shapes(1100, seed=3).images)
    finally:
        torch.set_num_threads(threads)
    for other in (make_cued_shapes(1100, seed=4), make_cued_shapes(1100, seed=3, stream=1)):
        seen = {image.numpy().tobytes() for image in base}
        assert not any(image.numpy().tobytes() in seen for image in other.images)


def test_each_run_of_8_images_holds_each_class_once():
    labels = make_cued_shapes(1600, seed=0).labels
    assert torch.equal(labels.view(-1, 8).sort(1).values, torch.arange(8).expand(200, 8))


def test_the_label_is_the_shape_of_object_0_and_colours_and_quadrants_differ(made):
    assert torch.equal(made.labels, made.shapes[:, 0])
    for values, limit in ((made.colours, len(COLOURS)), (made.quadrants, 4)):
        assert (values.sort(1).values.diff(dim=1) > 0).all()
        assert values.unique().tolist() == list(range(limit))


def test_pixels_of_the_masks_have_the_colour_of_their_objects(made):
    strongest = torch.from_numpy(RGB).argmax(1)
    target = made.images.permute(0, 2, 3, 1)[made.target_masks].float()
    image = made.target_masks.nonzero()[:, 0]
    assert (target.argmax(1) == strongest[made.colours[image, 0]]).float().mean() > 0.99
    if made.colours.shape[1] == 2:
        distractor = made.images.permute(0, 2, 3, 1)[made.distractor_masks].float()
        image = made.distractor_masks.nonzero()[:, 0]
        assert (distractor.argmax(1) == strongest[made.colours[image, 1]]).float().mean() > 0.99


def test_coloured_pixels_are_those_of_the_masks_and_the_cue(made):
    spread = made.images.amax(1).int() - made.images.amin(1).int()
    coloured = spread > 100
    cue = torch.zeros_like(coloured)
    for i, (left, top, right, bottom) in enumerate(made.cue_boxes.tolist()):
        cue[i, top:bottom, left:right] = True
    objects = made.target_masks | made.distractor_masks
    assert not (objects & cue).any() and not (made.target_masks & made.distractor_masks).any()
    assert not (coloured & ~objects & ~cue).any()
    assert (coloured & objects).sum() > 0.85 * objects.sum()  # the rest are soft edges
    assert torch.equal((coloured & cue).flatten(1).sum(1), torch.full((640,), 52))  # 13 of 25 cells of 2×2


def test_the_cue_has_the_colour_of_the_target(made):
    for image, (left, top, _, _), colours in zip(made.images, made.cue_boxes, made.colours, strict=True):
        expected = torch.from_numpy(RGB)[colours[0]] * 255
        assert (image[:, top, left] - expected).abs().max() <= 0.501


def test_boxes_fit_the_masks_tightly_and_lie_in_their_quadrants(made):
    for i in range(64):
        left, top, right, bottom = made.boxes[i, 0].tolist()
        rows, columns = made.target_masks[i].nonzero(as_tuple=True)
        assert (left, right) == (columns.min(), columns.max() + 1)
        assert (top, bottom) == (rows.min(), rows.max() + 1)
    quadrant = made.boxes[..., :2].long() // 16
    assert torch.equal(quadrant[..., 0] + 2 * quadrant[..., 1], made.quadrants[:, :-1])
    assert torch.equal((made.boxes[..., 2:].long() - 1) // 16, quadrant)


def test_shapes_differ_in_their_areas_as_their_geometry_says():
    made = make_cued_shapes(4000, seed=2, objects=1)
    area = [made.target_masks[made.labels == i].float().sum((1, 2)).mean().item() for i in range(8)]
    area = dict(zip(SHAPES, area, strict=True))
    unit = area["square"] / (1.6 * 1.6)  # mean square of the radius
    expected = {"disc": 3.1416 * 0.95**2, "ring": 3.1416 * (1 - 0.25), "bar": 2.1 * 0.6}
    expected |= {"cross": 2 * (2 * 0.66) - 0.66**2, "triangle": 0.5 * 1.75 * 2.02}
    for name, value in expected.items():
        assert area[name] / unit == pytest.approx(value, rel=0.06), name


def test_masks_are_made_only_when_asked_for():
    made = make_cued_shapes(8, masks=False)
    assert made.target_masks is None and made.boxes is None
    assert torch.equal(made.images, make_cued_shapes(8).images)


def test_search_val_and_test_are_the_same_for_every_seed_and_disjoint_from_training():
    first, second = (load_data("cued_shapes", subset=800, seed=seed) for seed in (0, 1))
    assert first.val.checksum == second.val.checksum and first.test.checksum == second.test.checksum
    assert first.train.checksum != second.train.checksum
    parts = [part.images for part in (first.train, first.val, first.test)]
    assert len({image.numpy().tobytes() for part in parts for image in part}) == 800 + 2000 + 2000
    assert first.val.labels.bincount().tolist() == [250] * 8 and first.class_names == SHAPES


def test_mean_and_std_describe_the_images():
    data = load_data("cued_shapes", subset=4000)
    images = data.train.images / 255
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor(data.mean), atol=0.02, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.tensor(data.std), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": 4}, "objects must be a whole number in 1..3, got 4"),
        ({"objects": 2.0}, "objects must be a whole number"),
        ({"cue_size": 5}, "cue_size must be an even number in 2..14, got 5"),
        ({"cue_size": 16}, "cue_size must be an even number in 2..14, got 16"),
        ({"noise": -0.1}, "noise must be a finite number in 0..1, got -0.1"),
        ({"noise": float("nan")}, "noise must be a finite number in 0..1, got nan"),
        ({"contrast": 0.6}, "contrast must be a finite number in 0..0.5"),
        ({"subset": 0}, "subset must be a whole number in 1..2147483647, got 0"),
        ({"seed": -1}, "seed must be a whole number in 0..9223372036854775807, got -1"),
        ({"cuesize": 4}, "no option 'cuesize'. Did you mean 'cue_size'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_data("cued_shapes", **options)

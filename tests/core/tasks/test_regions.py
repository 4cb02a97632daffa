"""Points and boxes: what the model is shown, what is kept of its mask, and how large that is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from core.errors import PromptError
from core.sequence import Image
from core.tasks.regions import MIN_MARGIN, THRESHOLD, Region, mask_area


def picture(width: int, height: int, seed: int = 0) -> Image:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image(pixels=PILImage.fromarray(rgb), spacing_mm=(0.5, 0.25), modality="CT", removed=("PatientName",))


def mask_of(inside_HW: np.ndarray) -> Image:
    return Image(pixels=PILImage.fromarray(np.where(inside_HW, 255, 0).astype(np.uint8)).convert("RGB"), generated=True)


def inside(mask: Image) -> np.ndarray:
    grey = np.asarray(mask.pixels)
    assert set(np.unique(grey)) <= {0, 255} and (grey == grey[..., :1]).all()
    return grey[..., 0] == 255


# What the model is shown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coordinates", "box"),
    [
        ((100, 100, 200, 180), (75, 80, 225, 200)),  # a quarter of 100 and of 80
        ((200, 180, 100, 100), (75, 80, 225, 200)),  # drawn from the other corner
        ((100, 100, 110, 108), (84, 84, 126, 124)),  # at least 16 pixels
        ((100.2, 100.9, 109.1, 107.3), (84, 84, 126, 124)),  # every pixel that it touches
        ((-50, -3, 40, 20), (0, 0, 56, 36)),
        ((250, 200, 900, 900), (234, 184, 300, 240)),
    ],
)
def test_a_box_is_shown_with_a_margin(coordinates, box):
    image = picture(300, 240)
    crop, where = Region("box", coordinates).crop(image)
    assert where == box
    assert np.array_equal(np.asarray(crop.pixels), np.asarray(image.pixels)[box[1] : box[3], box[0] : box[2]])
    assert (crop.spacing_mm, crop.modality, crop.removed) == (image.spacing_mm, "CT", ("PatientName",))
    assert crop.notes == (f"Part of the picture: columns {box[0]} to {box[2] - 1}, rows {box[1]} to {box[3] - 1}",)


@pytest.mark.parametrize(
    ("point", "box"),
    [((150, 120), (90, 60, 210, 180)), ((0, 0), (0, 0, 120, 120)), ((299.9, 239.9), (180, 120, 300, 240))],
)
def test_a_point_is_shown_in_a_square_of_half_the_shorter_side(point, box):
    crop, where = Region("point", point).crop(picture(300, 240))
    assert where == box and crop.pixels.size == (120, 120)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.integers(2, 90), st.integers(2, 90), st.lists(st.floats(-20, 110), min_size=4, max_size=4), st.booleans())
def test_any_region_gives_a_crop_around_it_or_a_sentence(width, height, numbers, is_box):
    image = picture(width, height)
    region = Region("box", tuple(numbers)) if is_box else Region("point", tuple(numbers[:2]))
    try:
        crop, (left, top, right, bottom) = region.crop(image)
    except PromptError as error:
        assert error.remedy
        return
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert crop.pixels.size == (right - left, bottom - top)
    if not is_box:
        assert left <= numbers[0] < right and top <= numbers[1] < bottom
    everything = region.paste(mask_of(np.ones((bottom - top, right - left), bool)), image, (left, top, right, bottom))
    marked = inside(everything)
    assert marked.any() and not marked[:top].any() and not marked[:, :left].any()
    assert not marked[bottom:].any() and not marked[:, right:].any()


# What is kept of the mask --------------------------------------------------------------------------------------------


def test_of_a_box_only_what_lies_inside_of_it_is_kept():
    image = picture(100, 80)
    region = Region("box", (30, 20, 50, 40))
    crop, box = region.crop(image)
    mask = region.paste(mask_of(np.ones(crop.pixels.size[::-1], bool)), image, box)
    wanted = np.zeros((80, 100), bool)
    wanted[20:40, 30:50] = True
    assert np.array_equal(inside(mask), wanted)
    assert (mask.generated, mask.spacing_mm, mask.modality) == (True, (0.5, 0.25), "CT")
    assert mask_area(mask, mask.spacing_mm).pixels == 400


def shown_at(region: Region, image: Image, whole_HW: np.ndarray) -> Image:
    """What is kept when the model gives the right mask of its crop."""
    _, (left, top, right, bottom) = region.crop(image)
    return region.paste(mask_of(whole_HW[top:bottom, left:right]), image, (left, top, right, bottom))


def test_of_a_point_only_the_part_that_it_hits_is_kept():
    image, whole = picture(200, 160), np.zeros((160, 200), bool)
    whole[70:80, 90:100], whole[80:85, 100:110] = True, True  # they touch at a corner
    whole[75:90, 115:125] = True  # another part
    mask = shown_at(Region("point", (95.5, 72)), image, whole)
    wanted = whole.copy()
    wanted[:, 115:] = False
    assert np.array_equal(inside(mask), wanted)
    assert mask.notes == ("Part of the mask under the point",)


def test_a_point_beside_the_mask_takes_the_nearest_part_within_reach():
    image, whole = picture(200, 160), np.zeros((160, 200), bool)  # reach: 8 pixels
    whole[70:80, 90:100] = True
    near = shown_at(Region("point", (107, 75)), image, whole)
    assert inside(near).sum() == 100
    assert near.notes == ("Part of the mask nearest to the point, 8 pixels from it",)
    far = shown_at(Region("point", (108, 75)), image, whole)
    assert not inside(far).any() and far.notes == ("No part of the mask lies under or near the point",)


def test_an_empty_mask_stays_empty():
    image = picture(64, 48)
    for region in (Region("point", (10, 10)), Region("box", (5, 5, 30, 30))):
        mask = shown_at(region, image, np.zeros((48, 64), bool))
        assert mask.pixels.size == (64, 48) and not inside(mask).any() and "empty" in mask.notes[-1]
        area = mask_area(mask, (1, 1))
        assert (area.pixels, area.fraction, area.mm2) == (0, 0, 0)


def test_a_mask_in_the_models_own_size_is_put_back_to_scale():
    image, region = picture(200, 160), Region("box", (60, 40, 140, 120))
    crop, box = region.crop(image)
    drawn = np.zeros((512, 512), bool)  # the model's size
    drawn[128:384, 128:384] = True  # the middle half of the crop, whose sides are 120 pixels
    mask = inside(region.paste(mask_of(drawn), image, box))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 109, 70, 129)
    assert crop.pixels.size == (120, 120)


# Areas ---------------------------------------------------------------------------------------------------------------


def test_areas():
    grey = np.zeros((10, 20), np.uint8)
    grey[0, :3], grey[1, :5] = THRESHOLD, THRESHOLD - 1
    mask = Image(pixels=PILImage.fromarray(grey).convert("RGB"))
    area = mask_area(mask, (0.5, 0.2))
    assert (area.pixels, area.fraction) == (3, 3 / 200) and area.mm2 == pytest.approx(0.3)
    assert mask_area(mask, None).mm2 is None


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "coordinates"),
    [
        ("circle", (1, 2)), ("point", (1, 2, 3, 4)), ("point", ()), ("box", (1, 2)), ("box", (1, 2, 3, float("nan"))),
        ("point", (float("inf"), 0)), ("point", ("a", 1)), ("point", None), ("box", 5),
    ],
)  # fmt: skip
def test_impossible_regions_are_refused(kind, coordinates):
    with pytest.raises(PromptError) as caught:
        Region(kind, coordinates)
    assert caught.value.remedy


@pytest.mark.parametrize("point", [(-0.1, 5), (64, 5), (5, 48), (5, -1), (1e300, 1)])
def test_a_point_outside_is_refused(point):
    image, region = picture(64, 48), Region("point", point)
    with pytest.raises(PromptError, match="outside of the picture") as caught:
        region.crop(image)
    assert "64 x 48" in caught.value.remedy
    with pytest.raises(PromptError, match="outside of the picture"):
        region.paste(mask_of(np.ones((4, 4), bool)), image, (0, 0, 4, 4))


@pytest.mark.parametrize("box", [(70, 5, 90, 20), (5, 5, 5, 20), (-9, 5, 0.5, 20), (10, 47, 30, 300)])
def test_a_box_with_too_little_of_the_picture_is_refused(box):
    with pytest.raises(PromptError, match="too little of the picture"):
        Region("box", box).crop(picture(64, 48))


@pytest.mark.parametrize("box", [(0, 0, 65, 48), (-1, 0, 4, 4), (4, 4, 4, 8)])
def test_a_crop_of_another_picture_is_refused(box):
    with pytest.raises(PromptError, match="does not lie in the picture"):
        Region("point", (1, 1)).paste(mask_of(np.ones((4, 4), bool)), picture(64, 48), box)


def test_a_small_picture_is_shown_as_a_whole():
    image = picture(MIN_MARGIN, MIN_MARGIN)
    assert Region("box", (4, 4, 9, 9)).crop(image)[1] == (0, 0, MIN_MARGIN, MIN_MARGIN)

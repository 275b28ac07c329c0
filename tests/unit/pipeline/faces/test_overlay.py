import numpy as np

from pipeline.faces.overlay import COLOURS, overlay_regions
from pipeline.faces.regions import GROUPS, Region, to_bits

GREY = np.full((224, 224, 3), 128, np.uint8)


def tint(picture, y, x):
    return picture[y, x].astype(int) - 128


def test_every_group_has_its_own_colour():
    assert set(COLOURS) == set(GROUPS)
    assert len(set(COLOURS.values())) == len(GROUPS)


def test_a_region_is_tinted_where_it_is_and_the_crop_is_left_alone():
    labels = np.zeros((224, 224), np.uint8)
    labels[100:120, 30:60] = Region.NOSE
    crop = GREY.copy()
    picture = overlay_regions(crop, labels)
    direction = np.array(COLOURS["nose"]) - 128
    assert np.all(np.sign(tint(picture, 110, 45)) == np.sign(direction))
    assert np.array_equal(tint(picture, 110, 45), tint(picture, 101, 59))
    assert not np.array_equal(tint(picture, 110, 45), tint(picture, 45, 110))  # rows are rows
    assert np.array_equal(crop, GREY)


def test_a_cell_with_several_labels_shows_the_component():
    labels = np.zeros((1, 224, 224), np.uint8)
    labels[0, 8:16] = Region.SKIN
    labels[0, 12, 20] = Region.LEFT_EYE
    picture = overlay_regions(GREY, to_bits(labels)[0])
    eye = overlay_regions(GREY, np.full((224, 224), Region.LEFT_EYE, np.uint8))
    skin = overlay_regions(GREY, np.full((224, 224), Region.SKIN, np.uint8))
    assert np.array_equal(picture[8, 16], eye[0, 0])
    assert np.array_equal(picture[8, 40], skin[0, 0])

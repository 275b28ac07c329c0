import numpy as np
import pytest

from pipeline.faces.centerface import CenterFaceDetector
from pipeline.faces.crop import crop_square
from pipeline.faces.landmarks68 import LandmarkParser, face_centre_and_size
from pipeline.faces.regions import Region
from pipeline.media.decode import read_frames
from pipeline.parse_regions import landmarks_in_crop

FACES = {"single_face.mp4": [0, 60], "WolfgangLanger_Pexels.mp4": [0, 90, 180]}
COMPONENTS = [region for region in Region if region not in (Region.BACKGROUND, Region.SKIN, Region.HAIR)]


@pytest.fixture(scope="module")
def parser():
    return LandmarkParser()


@pytest.fixture(scope="module")
def crops(sample_videos):
    """Real face crops and their five points in crop pixels."""
    detector, images, points = CenterFaceDetector(480, 0.5), [], []
    for name, indices in FACES.items():
        frames = read_frames(str(sample_videos / name), indices)
        for frame, found in zip(frames, detector.detect(frames), strict=True):
            centre, half = found.boxes_N4[0].reshape(2, 2).mean(axis=0), 1.3 * np.ptp(found.boxes_N4[0, 1::2]) / 2
            square = np.concatenate([centre - half, centre + half])
            images.append(crop_square(frame, square, 224))
            points.append(landmarks_in_crop(found.landmarks_N52[:1], square[None], 224)[0])
    return np.stack(images), np.stack(points)


def centroid(map_HW, region):
    rows, columns = np.nonzero(map_HW == region)
    return np.array([columns.mean(), rows.mean()])


def test_each_region_lies_where_the_detectors_own_points_say(parser, crops):
    """Two networks that know nothing of each other agree: eyes, nose and mouth within a tenth of the face."""
    images, points = crops
    for labels, five in zip(parser.parse(images, points), points, strict=True):
        tenth = 0.12 * face_centre_and_size(five)[1]
        assert np.linalg.norm(centroid(labels, Region.RIGHT_EYE) - five[0]) < tenth
        assert np.linalg.norm(centroid(labels, Region.LEFT_EYE) - five[1]) < tenth
        mouth = np.isin(labels, [Region.UPPER_LIP, Region.INNER_MOUTH, Region.LOWER_LIP])
        rows, columns = np.nonzero(mouth)
        assert np.linalg.norm([columns.mean(), rows.mean()] - five[3:].mean(axis=0)) < 1.5 * tenth
        assert labels[int(five[2, 1]), int(five[2, 0])] == Region.NOSE


def test_left_and_right_are_the_persons(parser, crops):
    images, points = crops
    for labels in parser.parse(images, points):
        assert centroid(labels, Region.RIGHT_EYE)[0] < centroid(labels, Region.LEFT_EYE)[0]
        assert centroid(labels, Region.RIGHT_BROW)[0] < centroid(labels, Region.LEFT_BROW)[0]


def test_regions_have_the_order_and_size_of_a_face(parser, crops):
    images, points = crops
    for labels in parser.parse(images, points):
        share = {region: (labels == region).mean() for region in Region}
        assert 0.2 < share[Region.SKIN] < 0.6
        assert share[Region.HAIR] == 0  # dlib knows none
        assert all(share[region] > 0 for region in COMPONENTS if region != Region.INNER_MOUTH)
        height = [centroid(labels, r)[1] for r in (Region.LEFT_BROW, Region.LEFT_EYE, Region.NOSE, Region.LOWER_LIP)]
        assert height == sorted(height)
        skin = centroid(labels, Region.SKIN)
        assert np.abs(skin - 112).max() < 40


def test_a_mirrored_face_has_mirrored_regions(parser, crops):
    """Sides decided by the picture instead of the person, or a table with one pair not swapped, shows here."""
    images, points = crops
    swap = np.arange(11, dtype=np.uint8)
    swap[[2, 3, 4, 5]] = [3, 2, 5, 4]
    mirrored_points = points[:, [1, 0, 2, 4, 3]] * [-1, 1] + [224, 0]
    maps = parser.parse(images, points)
    mirrored = swap[parser.parse(np.ascontiguousarray(images[:, :, ::-1]), mirrored_points)[:, :, ::-1]]
    assert (maps == mirrored).mean() > 0.93


def test_a_map_depends_on_its_own_crop_alone(parser, crops):
    images, points = crops
    together = parser.parse(images, points)
    assert np.array_equal(together[2:3], parser.parse(images[2:3], points[2:3]))
    assert parser.parse(images[:0], points[:0]).shape == (0, 224, 224)


def test_points_at_one_place_or_outside_are_no_error(parser, crops):
    """Interpolated landmarks can be anywhere; native code must not meet an empty box."""
    for place in (0.0, -500.0, 5000.0):
        maps = parser.parse(crops[0][:1], np.full((1, 5, 2), place, np.float32))
        assert maps.max() <= max(Region)

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (30.0, 8.0, 8.0)


@pytest.fixture
def touching() -> np.ndarray:
    """Two blocks side by side along x, in background along y."""
    labels = np.zeros((5, 8, 10), np.int32)
    labels[:, 2:6, :5] = 1
    labels[:, 2:6, 5:] = 2
    return labels


def values(labels, voxel_size=ISOTROPIC, **options):
    return make_targets(labels, voxel_size, **options).values_CZYX


def test_mask_is_every_object(touching):
    np.testing.assert_array_equal(values(touching)[0], 255 * (touching > 0))


def test_boundary_is_both_sides_of_every_difference(touching):
    boundary = values(touching)[1] > 0

    expected = np.zeros(touching.shape, bool)
    expected[:, [1, 2, 5, 6], :] = True
    expected[:, 2:6, 4:6] = True
    np.testing.assert_array_equal(boundary, expected)


def test_faces_of_the_volume_are_no_boundary():
    assert not values(np.ones((4, 5, 6), np.int32))[1].any()


def test_boundary_between_slices_only_in_3d():
    labels = np.ones((4, 5, 6), np.int32)
    labels[2:] = 2

    assert not values(labels, boundary="2d")[1].any()
    in_3d = values(labels, boundary="3d")[1] > 0
    assert in_3d[1:3].all()
    assert not in_3d[[0, 3]].any()


def test_distance_of_a_slab_rises_to_its_middle():
    labels = np.zeros((3, 4, 7), np.int32)
    labels[:, :, 1:6] = 9

    distance = values(labels)[2]

    row = np.array([0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0]) * 255
    np.testing.assert_array_equal(distance, np.broadcast_to(np.rint(row), labels.shape))


def test_distance_stops_at_a_touching_neighbour(touching):
    distance = values(touching)[2]

    assert (distance[:, 2:6, 4:6] == np.rint(255 / 2)).all()


def test_distance_is_measured_in_nm():
    # 5 slices of 30 nm are deeper than 9 rows of 8 nm are wide: rows decide.
    labels = np.zeros((7, 11, 11), np.int32)
    labels[1:6, 1:10, 1:10] = 1

    distance = values(labels, ANISOTROPIC)[2]

    assert distance[3, 5, 5] == 255
    assert distance[1, 5, 5] == np.rint(255 * 30 / 40)
    assert distance[3, 5, 1] == np.rint(255 * 8 / 40)


@pytest.mark.parametrize("voxel_size", [ISOTROPIC, ANISOTROPIC, (8.0, 30.0, 5.0)])
def test_distance_agrees_with_one_transform_per_object(voxel_size):
    labels = make_sample("cells", (12, 48, 48)).labels_ZYX

    distance = values(labels, voxel_size)[2]

    pieces = cc3d.connected_components(labels, connectivity=26)
    expected = np.zeros(labels.shape)
    for index in range(1, int(pieces.max()) + 1):
        # scipy takes the faces for inside too.
        depth = ndimage.distance_transform_edt(pieces == index, sampling=voxel_size)
        expected += depth / depth.max()
    assert np.abs(distance - 255 * expected).max() <= 0.51


def test_distance_in_2d_is_that_of_each_slice():
    labels = make_sample("vesicles", (10, 40, 40)).labels_ZYX

    distance = values(labels, ANISOTROPIC, distance="2d")[2]

    for z in range(len(labels)):
        alone = values(labels[z : z + 1], ANISOTROPIC)[2]
        np.testing.assert_array_equal(distance[z], alone[0])


def test_pieces_of_one_id_have_maxima_of_their_own():
    labels = np.zeros((1, 3, 12), np.int32)
    labels[:, :, 1:4] = 7
    labels[:, :, 6:11] = 7

    distance = values(labels)[2]

    assert (distance[0, :, [2, 8]] == 255).all()


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 5, 6), (1, 1, 1)])
@pytest.mark.parametrize("mode", ["3d", "2d"])
def test_an_object_that_fills_the_volume_is_deep_everywhere(shape, mode):
    targets = make_targets(np.full(shape, 3), ISOTROPIC, distance=mode)

    assert (targets.values_CZYX[2] == 255).all()
    assert targets.valid_CZYX.all()


@pytest.mark.parametrize("id_", [2**31 + 5, 2**62])
def test_large_ids_are_like_small_ones(touching, id_):
    large = np.where(touching == 2, np.int64(id_), touching)

    np.testing.assert_array_equal(values(large), values(touching))


def test_neighbouring_large_ids_are_told_apart():
    labels = np.full((1, 2, 4), 2**53, np.int64)
    labels[..., 2:] += 1

    assert values(labels)[1].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_every_integer_type_gives_the_same(touching, dtype):
    np.testing.assert_array_equal(values(touching.astype(dtype)), values(touching))


def test_layout_of_the_array_does_not_matter(touching):
    turned = np.asfortranarray(touching)[::-1][::-1]

    np.testing.assert_array_equal(
        values(turned, ANISOTROPIC), values(touching, ANISOTROPIC)
    )


def test_empty_labels_are_background_everywhere():
    targets = make_targets(np.zeros((2, 3, 4), np.int32), ISOTROPIC)

    assert not targets.values_CZYX.any()
    assert targets.valid_CZYX.all()


def test_inputs_are_not_written(touching):
    annotated = np.ones(touching.shape, bool)
    annotated[:2] = False
    touching.setflags(write=False)
    annotated.setflags(write=False)

    make_targets(touching, ISOTROPIC, annotated_ZYX=annotated)


def test_fractions_are_refused(touching):
    with pytest.raises(ValueError, match="integers"):
        make_targets(touching.astype(float), ISOTROPIC)


def test_everything_is_valid_where_all_is_annotated(touching):
    everywhere = np.ones(touching.shape, bool)

    with_mask = make_targets(touching, ISOTROPIC, annotated_ZYX=everywhere)
    without = make_targets(touching, ISOTROPIC)

    assert with_mask.valid_CZYX.all()
    np.testing.assert_array_equal(with_mask.values_CZYX, without.values_CZYX)


def test_nothing_is_valid_beyond_the_annotation(touching):
    annotated = np.zeros(touching.shape, bool)
    annotated[1:3, :, 2:8] = True

    valid = make_targets(touching, ISOTROPIC, annotated_ZYX=annotated).valid_CZYX

    assert not valid[:, ~annotated].any()
    np.testing.assert_array_equal(valid[0], annotated)


def test_boundary_is_unknown_beside_the_unannotated_unless_found():
    labels = np.zeros((1, 1, 8), np.int32)
    labels[..., 3:] = 1
    annotated = np.ones(labels.shape, bool)
    annotated[..., [1, 4, 6]] = False

    targets = make_targets(labels, ISOTROPIC, annotated_ZYX=annotated)

    # voxel:    0 1 2 3 4 5 6 7; 2|3 is a boundary found between annotated voxels
    expected = [0, 0, 1, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(targets.valid_CZYX[1, 0, 0], expected)
    np.testing.assert_array_equal(targets.values_CZYX[1, 0, 0] > 0, expected)


def test_annotated_slices_are_valid_in_2d():
    labels = np.zeros((5, 12, 12), np.int32)
    labels[:, 3:9, 3:9] = 1
    annotated = np.zeros(labels.shape, bool)
    annotated[2] = True

    flat = make_targets(
        labels, ISOTROPIC, boundary="2d", distance="2d", annotated_ZYX=annotated
    )
    solid = make_targets(labels, ISOTROPIC, annotated_ZYX=annotated)

    assert flat.valid_CZYX[:, 2].all()
    np.testing.assert_array_equal(
        flat.values_CZYX[:, 2],
        values(labels[2:3])[:, 0],
    )
    inside = (slice(4, 8), slice(4, 8))
    assert not solid.valid_CZYX[1:, 2][:, *inside].any()
    assert solid.valid_CZYX[2, 2][labels[2] == 0].all()


def test_distance_is_unknown_where_the_unannotated_is_nearer():
    labels = np.zeros((1, 1, 30), np.int32)
    labels[..., 2:9] = 1  # all of it known, and its background on both sides
    labels[..., 14:] = 2  # runs into the unannotated end
    annotated = np.ones(labels.shape, bool)
    annotated[..., 20:] = False

    targets = make_targets(labels, ISOTROPIC, annotated_ZYX=annotated)

    valid = targets.valid_CZYX[2, 0, 0]
    assert valid[:14].all()
    # Its deepest voxel lies at the unannotated: how deep it is nobody knows.
    assert not valid[14:].any()


def test_valid_distances_are_those_of_the_whole_annotation():
    labels = make_sample("vesicles", (16, 80, 80)).labels_ZYX
    annotated = np.zeros(labels.shape, bool)
    annotated[3:13, 10:70, 15:75] = True

    part = make_targets(labels, ANISOTROPIC, annotated_ZYX=annotated)
    whole = make_targets(labels, ANISOTROPIC)

    inside = part.valid_CZYX[1]
    np.testing.assert_array_equal(
        part.values_CZYX[1][inside], whole.values_CZYX[1][inside]
    )
    # An object cut by the annotation may be deeper beyond it; the others are exact.
    cut = np.unique(labels[ndimage.binary_dilation(~annotated) & annotated])
    whole_objects = part.valid_CZYX[2] & ~np.isin(labels, cut[cut > 0])
    assert (labels[whole_objects] > 0).any()
    np.testing.assert_array_equal(
        part.values_CZYX[2][whole_objects], whole.values_CZYX[2][whole_objects]
    )


def test_targets_of_a_part_with_whole_objects_do_not_depend_on_the_rest(touching):
    padded = np.pad(touching, ((0, 0), (3, 4), (0, 0)))

    np.testing.assert_array_equal(values(padded)[:, :, 3:-4], values(touching))

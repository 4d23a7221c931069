"""What an image looks like to a network, and when that is told."""

from __future__ import annotations

import json
import sys
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_volseg.intensities import (
    compare_intensities,
    compare_looks,
    describe_intensities,
    intensities_from_json,
    intensities_to_json,
    noise_of,
)
from napari_volseg.sample_data import make_sample
from napari_volseg.volume import Volume, intensity_range

DATA = Path(__file__).parents[2] / "shared" / "data"
MIDDLE = (0.05, 0.95)
NM = (30.0, 8.0, 8.0)


def look(image):
    """Describe an array or a volume as a network sees it."""
    volume = image if isinstance(image, Volume) else Volume(image, NM, "em")
    return describe_intensities(volume, MIDDLE)


def compare(image, *known, voxel_size=NM):
    volume = image if isinstance(image, Volume) else Volume(image, NM, "em")
    return compare_intensities(volume, known, MIDDLE, voxel_size)


@pytest.fixture(scope="module")
def em():
    return np.asarray(make_sample("cells", (24, 96, 96), 0, NM).image.data)


@pytest.fixture(scope="module")
def nuclei():
    return np.asarray(make_sample("nuclei", (24, 96, 96), 0, NM).image.data)


def test_a_ramp_has_evenly_spread_deciles_and_nothing_else(rng):
    ramp = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (2, 8, 1))
    (seen,) = look(ramp)
    even = (np.arange(1, 10) / 10 - 0.05) / 0.9
    np.testing.assert_allclose(seen.deciles, even, atol=0.01)
    assert seen.noise == pytest.approx(0, abs=1e-3)
    assert seen.dark_lines is None


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_measured_through_structure(rng, sigma):
    waves = np.sin(np.linspace(0, 20, 400))[None, None] * np.ones((3, 100, 1))
    noisy = waves + rng.normal(0, sigma, waves.shape)
    assert noise_of(noisy.astype(np.float32)) == pytest.approx(sigma, rel=0.1)


def test_dark_lines_are_told_from_bright_ones_and_from_edges(rng):
    lines = rng.normal(0, 0.01, (4, 100, 100)).astype(np.float32)
    lines[:, 10::20] -= 1
    lines[:, 11::20] -= 1
    edges = rng.normal(0, 0.01, (4, 100, 100)).astype(np.float32)
    edges[:, :, 40:] += 1
    assert look(lines)[0].dark_lines > 0.95
    assert look(-lines)[0].dark_lines < 0.05
    assert 0.35 < look(edges)[0].dark_lines < 0.65


def test_gain_and_offset_do_not_matter(em):
    (seen,), (same,) = look(em), look(em.astype(np.uint16) * 37 + 1000)
    np.testing.assert_allclose(seen.deciles, same.deciles, atol=1e-3)
    assert seen.noise == pytest.approx(same.noise, abs=1e-3)
    assert seen.dark_lines == pytest.approx(same.dark_lines, abs=1e-3)


@pytest.mark.parametrize("kind", ["em", "nuclei"])
def test_a_negative_is_described_as_inverted(kind, request):
    data = request.getfixturevalue(kind)
    (seen,), (negative,) = look(data), look(255 - data)
    np.testing.assert_allclose(seen.inverted().deciles, negative.deciles, atol=1e-3)
    assert seen.inverted().dark_lines == pytest.approx(negative.dark_lines, abs=0.01)
    twice = seen.inverted().inverted()
    np.testing.assert_allclose(twice.deciles, seen.deciles)
    assert twice.noise == seen.noise


def test_descriptions_survive_a_model_file(em):
    known = (look(em), look(255 - em))
    text = json.dumps(intensities_to_json(known))
    assert intensities_from_json(json.loads(text)) == known


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "deciles",
        {"deciles": 1},
        [[{"deciles": [0.5] * 8, "noise": 0.1, "dark_lines": 0.5}]],
        [[{"deciles": [0.5] * 9, "noise": 0.1}]],
        [[{"deciles": [0.5] * 8 + [float("nan")], "noise": 0, "dark_lines": None}]],
        [[{"deciles": ["a"] * 9, "noise": 0.1, "dark_lines": 0.5}]],
        [[{"deciles": [0.5] * 9, "noise": -1, "dark_lines": 0.5}]],
        [[{"deciles": [10**400] * 9, "noise": 0, "dark_lines": 0.5}]],
    ],
)
def test_what_cannot_be_read_says_nothing(value):
    assert intensities_from_json(value) == ()


def test_the_same_kind_of_image_is_fine(em):
    other = np.asarray(make_sample("cells", (24, 96, 96), 7, NM).image.data)
    assert compare(em, look(em)) is None
    assert compare(other, look(em)) is None
    assert compare(em[:, :48, 48:], look(em)) is None


def test_a_negative_is_called_one(em, nuclei):
    message = compare(255 - em, look(em))
    assert message is not None
    assert message.startswith(
        "The image em looks like a negative of what the model learnt from"
    )
    assert "Invert its values, not just its colormap" in message
    message = compare(255 - nuclei, look(nuclei))
    assert "most of it is bright, and most of the training images dark" in message


def test_noise_and_its_amount_are_told(em, rng):
    clean = em.astype(np.float32)
    low, high = intensity_range(Volume(em), MIDDLE)[0]
    noisy = clean + rng.normal(0, 0.5 * (high - low), em.shape)
    message = compare(noisy, look(em))
    assert message is not None
    assert "unlike what the model learnt from" in message
    assert "it is noisier" in message
    assert "not 10 %" in message
    assert "train on an annotated part of it" in message


def test_other_gray_values_are_told(em, rng):
    dark = (em / 255.0) ** 6
    message = compare(dark, look(em), voxel_size=(30, 40, 40))
    assert message is not None
    assert "more of it is dark" in message


def test_the_nearest_training_image_counts(em, nuclei):
    assert compare(nuclei, look(em)) is not None
    assert compare(nuclei, look(em), look(nuclei)) is None


def test_textures_count_only_where_voxels_are_alike(rng):
    """Lines and noise depend on how wide a voxel is, gray values do not."""
    smooth = rng.normal(0, 1, (4, 40, 40)).repeat(4, axis=1).repeat(4, axis=2)
    noisy = smooth + rng.normal(0, 1, smooth.shape)
    assert "noisier" in compare(noisy, look(smooth))
    assert compare(noisy, look(smooth), voxel_size=(30, 24, 24)) is None
    assert "noisier" in compare(noisy, look(smooth), voxel_size=(90, 8, 8))


def test_the_channel_that_differs_is_named(em, nuclei):
    both = Volume(np.stack([em, nuclei]), NM, "both")
    known = look(both)
    assert compare(both, known) is None
    swapped = Volume(np.stack([em, 255 - nuclei]), NM, "both")
    assert compare(swapped, known).startswith("Channel 1 (of 0 to 1) of both looks")


def test_an_image_of_one_gray_value_is_told(em):
    message = compare(np.full_like(em, 9), look(em))
    assert message.startswith("The image em has the same gray value almost everywhere")


def test_without_knowledge_nothing_is_read_or_said(em):
    class Untouchable:
        shape, dtype = (9, 99, 99), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise AssertionError("was read")

    image = Volume(Untouchable(), NM, "far")
    assert compare(image) is None
    two = look(np.stack([em, em]))
    assert compare(image, two) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 7), (3, 5, 2), (2, 1, 300)])
def test_images_of_any_size_are_described(shape, em, rng):
    (seen,) = look(rng.integers(0, 255, shape, np.uint8))
    assert len(seen.deciles) == 9
    assert intensities_from_json(intensities_to_json(((seen,),))) == ((seen,),)
    compare(rng.integers(0, 255, shape, np.uint8), look(em))


def test_of_a_huge_volume_little_is_read(em):
    """Counts the voxels of a volume that would have 200 GB."""
    read = []

    class Huge:
        shape, dtype = (2000, 10_000, 10_000), np.dtype(np.uint8)

        def __getitem__(self, key):
            size = [
                len(range(*part.indices(length)))
                for part, length in zip(key, self.shape, strict=True)
            ]
            read.append(int(np.prod(size)))
            return np.resize(em, size)

    compare(Volume(Huge(), NM, "huge"), look(em))
    assert 0 < sum(read) < 10_000_000


def test_the_description_is_small(em):
    text = json.dumps(intensities_to_json((look(em),)))
    assert len(text) < 200
    assert sys.getsizeof(text) < 300


REAL = {
    "bbbc050_emb01_t501": ("nuclei", np.s_[:]),
    "bbbc050_emb05_t501": ("nuclei", np.s_[:]),
    "bbbc050_emb11_t451": ("nuclei", np.s_[:]),
    "plant_chloroplast_em": ("plant", np.s_[:, :780], np.s_[:, 800:]),
    "root_membrane_cells": ("root", np.s_[:, :, :130], np.s_[:, :, 140:]),
    "flyem_fib25_neurons": ("neurons", np.s_[:100], np.s_[105:]),
    "gala_fibsem_tiny_train": ("neurons", np.s_[:]),
    "gala_fibsem_tiny_test": ("neurons", np.s_[:]),
    "cremi_c_one_slice": ("neurons", np.s_[:]),
    "gonuclear_1135": ("noisy nuclei", np.s_[:65], np.s_[70:]),
}
"""Volumes and their training and test parts, by what they show."""


@pytest.fixture(scope="module")
def real():
    """Looks of real volumes: what they show, and what they and their negatives are."""
    if not DATA.is_dir():
        pytest.skip("the real volumes are not in ../shared/data")
    found = []
    for name, (kind, *parts) in REAL.items():
        with h5py.File(DATA / f"{name}.h5") as file:
            data = file["raw"][...]
        for part in parts:
            volume = Volume(data[part], (1.0, 1.0, 1.0), name)
            negative = Volume(data.max() - data[part], (1.0, 1.0, 1.0), name)
            found.append((kind, look(volume), look(negative)))
    return found


def test_real_volumes_of_one_kind_are_silent(real):
    for (kind, new, _), (other, known, _) in permutations(real, 2):
        if kind == other:
            assert compare_looks("new", new, (known,)) is None


def test_real_volumes_of_another_kind_are_told(real):
    fluorescence = {"nuclei", "root", "noisy nuclei"}
    for (kind, new, _), (other, known, _) in permutations(real, 2):
        if (kind in fluorescence) != (other in fluorescence):
            assert compare_looks("new", new, (known,)) is not None


def test_negatives_of_real_volumes_are_called_so(real):
    for _, known, negative in real:
        message = compare_looks("new", negative, (known,))
        assert message is not None
        assert "looks like a negative" in message

"""Settings derived from data, machine and time."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from napari_volseg.automatic import (
    Machine,
    choose_binning,
    choose_patch,
    choose_settings,
    training_cost,
)
from napari_volseg.config import Config, build_config, load_config
from napari_volseg.fingerprint import Fingerprint

NUCLEI = Fingerprint(
    voxel_size=(1750.0, 800.0, 800.0),
    shapes=((51, 124, 127), (51, 129, 127)),
    n_channels=1,
    n_instances=89,
    extent=(14.0, 18.0, 17.0),
    small_size=120.0,
    median_size=1300.0,
    spacing_nm=12_000.0,
    touching_share=0.7,
    foreground_share=0.07,
    annotated_share=1.0,
    noise=0.12,
)
SECTIONS = replace(
    NUCLEI, voxel_size=(40.0, 20.0, 20.0), shapes=((10, 780, 800),), noise=0.03
)
DENSE = replace(
    NUCLEI,
    voxel_size=(10.0, 10.0, 10.0),
    shapes=((100, 250, 250),),
    foreground_share=0.99,
)
LAPTOP = Machine("cpu", 8_000_000_000, 7e10, 2)
GPU = Machine("cuda", 24_000_000_000, 2e13, 2)


def _choose(
    fingerprint: Fingerprint, machine: Machine = LAPTOP, *settings: str
) -> Config:
    return choose_settings(load_config("auto", settings), fingerprint, machine)[0]


@pytest.mark.parametrize("fingerprint", [NUCLEI, SECTIONS, DENSE])
@pytest.mark.parametrize("machine", [LAPTOP, GPU])
def test_every_choice_is_in_the_configuration_and_has_a_reason(
    fingerprint: Fingerprint, machine: Machine
) -> None:
    config, choices = choose_settings(load_config("auto"), fingerprint, machine)
    tree = config.model_dump(mode="json")
    assert not config.automatic.enabled
    assert len({c.setting for c in choices}) == len(choices) > 10
    for choice in choices:
        value = tree
        for part in choice.setting.split("."):
            value = value[part]
        assert value == choice.value
        assert choice.reason.endswith(".")


def test_what_was_given_is_kept_even_when_it_is_a_default() -> None:
    default = Config().data.patch_size
    given = f"data.patch_size={list(default)}"
    config = _choose(NUCLEI, LAPTOP, given, "model.filters=[8,16]")
    assert config.data.patch_size == default
    assert config.model.filters == (8, 16)
    assert config.model.rsunet_norm == "group"


def test_the_same_numbers_give_the_same_settings() -> None:
    assert _choose(DENSE) == _choose(DENSE)


@pytest.mark.parametrize("fingerprint", [NUCLEI, SECTIONS, DENSE])
@pytest.mark.parametrize("n_voxels", [40_000, 160_000, 1_000_000])
def test_a_patch_is_cubic_in_nm_and_fits_the_volumes(
    fingerprint: Fingerprint, n_voxels: int
) -> None:
    patch = choose_patch(fingerprint, n_voxels)
    deepest = max(shape[0] for shape in fingerprint.shapes)
    longest = [deepest, *[max(max(s[1:]) for s in fingerprint.shapes)] * 2]
    assert all(p <= n for p, n in zip(patch, longest, strict=True))
    assert patch[1] == patch[2]
    if all(p < n - 8 for p, n in zip(patch, longest, strict=True)):
        assert 0.7 * n_voxels < prod(patch) < 1.4 * n_voxels
        edges = [p * v for p, v in zip(patch, fingerprint.voxel_size, strict=True)]
        assert max(edges) < 1.4 * min(edges)


def test_what_a_shallow_volume_cannot_take_goes_to_the_slice() -> None:
    assert choose_patch(SECTIONS, 160_000) == (10, 128, 128)


def test_one_slice_gets_a_flat_patch() -> None:
    flat = replace(NUCLEI, shapes=((1, 500, 500),))
    z, y, x = choose_patch(flat, 100_000)
    assert (z, y) == (1, x)
    assert y > 200


def test_a_slow_machine_or_little_time_gets_a_small_network() -> None:
    def cost(config: Config) -> float:
        return training_cost(config, NUCLEI.voxel_size)

    usual = cost(_choose(NUCLEI))
    slow = cost(_choose(NUCLEI, replace(LAPTOP, macs_per_second=1e10)))
    short = cost(_choose(NUCLEI, LAPTOP, "optimization.max_minutes=3"))
    assert slow < usual
    assert short < usual
    assert cost(_choose(NUCLEI, GPU)) > usual


def test_little_memory_gets_a_small_network() -> None:
    small = _choose(DENSE, replace(GPU, memory_bytes=1_000_000_000))
    assert prod(small.data.patch_size) < prod(_choose(DENSE, GPU).data.patch_size)


def test_only_serial_sections_get_the_defects_of_sections() -> None:
    assert _choose(SECTIONS).augmentation.missing_section > 0
    assert _choose(NUCLEI).augmentation.missing_section == 0
    assert _choose(DENSE).augmentation.shifted_section == 0


def test_noise_and_density_are_heeded() -> None:
    assert _choose(NUCLEI).augmentation.noise > _choose(SECTIONS).augmentation.noise
    assert _choose(DENSE).model.rsunet_norm == "batch"
    assert _choose(NUCLEI).data.foreground > _choose(DENSE).data.foreground


def test_small_objects_survive_the_size_filter() -> None:
    tiny = replace(NUCLEI, small_size=12.0)
    assert _choose(tiny).instances.min_size <= 12


def test_the_cost_counts_every_convolution() -> None:
    config = build_config(
        {
            "model": {
                "filters": [4, 8],
                "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
                "down_factors": [[1, 2, 2]],
            },
            "data": {"patch_size": [8, 16, 16]},
        }
    )
    fine, coarse = 8 * 16 * 16, 8 * 8 * 8
    expected = fine * 9 * (1 * 4 + 5 * 16) + coarse * 27 * (4 * 8 + 2 * 64)
    assert training_cost(config, (1, 1, 1)) == 3 * expected


LARGE = replace(SECTIONS, extent=(10.0, 71.0, 102.0), small_size=4000.0)


def test_objects_larger_than_the_view_are_binned_until_several_fit() -> None:
    binning = choose_binning(LARGE, 160_000)
    # Not along z, where objects are ten voxels deep.
    assert binning == (1, 4, 4)
    patch = choose_patch(LARGE, 160_000 * prod(binning))
    assert min(patch[1:]) > 2 * min(choose_patch(LARGE, 80_000)[1:]) - 16


def test_voxels_become_cubic_before_all_axes_are_binned() -> None:
    cells = replace(LARGE, voxel_size=(250.0, 160.0, 160.0), extent=(43.0, 70.0, 75.0))
    assert choose_binning(cells, 160_000) == (1, 2, 2)
    assert choose_binning(replace(cells, small_size=20_000.0), 160_000) == (2, 4, 4)


@pytest.mark.parametrize("fingerprint", [NUCLEI, DENSE])
def test_small_objects_are_not_binned(fingerprint: Fingerprint) -> None:
    assert choose_binning(fingerprint, 160_000) == (1, 1, 1)


def test_binned_patches_cost_what_the_network_sees() -> None:
    plain = build_config({"data": {"patch_size": [8, 64, 64]}})
    binned = build_config(
        {"data": {"patch_size": [8, 128, 128]}, "model": {"binning": [1, 2, 2]}}
    )
    assert training_cost(binned, (40.0, 20.0, 20.0)) == training_cost(
        plain, (40.0, 40.0, 40.0)
    )


def test_binning_that_was_given_is_kept() -> None:
    assert _choose(LARGE).model.binning == (1, 4, 4)
    kept = _choose(LARGE, LAPTOP, "model.binning=[1,1,1]")
    assert kept.model.binning == (1, 1, 1)
    assert prod(kept.data.patch_size) < prod(_choose(LARGE).data.patch_size)

from itertools import product
from math import prod

import pytest
import torch
from network_cases import NETWORKS, make_model

from napari_volseg.config import ModelConfig, load_config, preset_names
from napari_volseg.errors import DataError
from napari_volseg.networks import (
    Pyramid,
    build_network,
    check_model,
    fit_patch,
    fit_window,
    level_widths,
)

LARGE = (400, 400, 400)


@pytest.mark.parametrize(
    ("settings", "message", "remedy"),
    [
        (
            {"architecture": "monai_segresnet", "deep_supervision": True},
            "deep_supervision needs rsunet, mednext.*monai_segresnet has no",
            {"deep_supervision": False},
        ),
        (
            {"architecture": "monai_unet", "gradient_checkpointing": True},
            "gradient_checkpointing needs rsunet or monai_swin_unetr",
            {"gradient_checkpointing": False},
        ),
        (
            {"architecture": "monai_unet", "rsunet_attention": True},
            "rsunet_attention concerns rsunet only: set it to false",
            {"rsunet_attention": False},
        ),
        (
            {"architecture": "mednext", "rsunet_skip": "dense"},
            "rsunet_skip concerns rsunet only: set it to add",
            {"rsunet_skip": "add"},
        ),
        (
            {"architecture": "mednext", "rsunet_dropout": 0.2},
            "rsunet_dropout concerns rsunet only: set it to 0.0",
            {"rsunet_dropout": 0.0},
        ),
        (
            {"architecture": "mednext", "rsunet_blocks": 2},
            "rsunet_blocks concerns rsunet only: set it to 1",
            {"rsunet_blocks": 1},
        ),
        (
            {"filters": (4, 8), "deep_supervision": True},
            r"at least 3 levels: set model.filters to \[4, 8, 16\]",
            {"filters": (4, 8, 16)},
        ),
        (
            {"architecture": "monai_dynunet", "filters": (4, 8)},
            r"at least 3 levels: set model.filters to \[4, 8, 16\]",
            {"filters": (4, 8, 16)},
        ),
        (
            {"architecture": "monai_unet", "filters": (4,)},
            r"at least 2 levels: set model.filters to \[4, 8\]",
            {"filters": (4, 8)},
        ),
        (
            {"architecture": "monai_basic_unetplusplus", "filters": (4, 8, 8)},
            r"5 levels of at least 2: set model.filters to \[4, 8, 8, 16, 32\]",
            {"filters": (4, 8, 8, 16, 32)},
        ),
        (
            {"architecture": "monai_basic_unetplusplus", "filters": (2, 1, 2, 3, 4)},
            r"set model.filters to \[2, 2, 2, 3, 4\]",
            {"filters": (2, 2, 2, 3, 4)},
        ),
        (
            {"architecture": "monai_segresnet", "filters": (4, 8, 12)},
            r"doubles its feature maps.*\[4, 8, 16\]",
            {"filters": (4, 8, 16)},
        ),
        (
            {"architecture": "monai_swin_unetr", "filters": (32, 64)},
            r"a multiple of 12: set model.filters to \[36, 72\]",
            {"filters": (36, 72)},
        ),
        (
            {"architecture": "monai_unetr", "filters": (4, 6)},
            r"doubles its feature maps.*\[4, 8\]",
            {"filters": (4, 8)},
        ),
        (
            {
                "architecture": "monai_unetr",
                "filters": (4,),
                "unetr_hidden_size": 50,
                "unetr_num_heads": 12,
            },
            "unetr_num_heads 12: set it to 48",
            {"unetr_hidden_size": 48},
        ),
        (
            {
                "architecture": "monai_unet",
                "filters": (4, 8),
                "kernel_sizes": ((3, 3, 3), (1, 3, 3)),
            },
            "kernel_sizes needs rsunet or monai_dynunet",
            {"kernel_sizes": None},
        ),
        (
            {"filters": (4, 8), "kernel_sizes": ((2, 3, 3), (3, 4, 3))},
            r"odd.*set it to \[\[3, 3, 3\], \[3, 5, 3\]\]",
            {"kernel_sizes": ((3, 3, 3), (3, 3, 3))},
        ),
        (
            {
                "architecture": "monai_dynunet",
                "filters": (4, 8, 8),
                "kernel_sizes": ((1, 3, 3),) * 3,
                "down_factors": ((4, 4, 4), (1, 2, 2)),
            },
            r"set model.down_factors to \[\[2, 4, 4\], \[1, 2, 2\]\]",
            {"down_factors": ((2, 4, 4), (1, 2, 2))},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_and_the_remedy_works(settings, message, remedy):
    with pytest.raises(DataError, match=message) as caught:
        _settle(ModelConfig(**settings))
    assert "\n" not in str(caught.value)
    model = ModelConfig(**{**settings, **remedy})
    patch, pyramid = _settle(model)
    network = build_network(model, 1, pyramid).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, *patch))[0].shape[2:] == patch


def _settle(model, patch=(16, 32, 32), voxel_size=(1.0, 1.0, 1.0)):
    check_model(model)
    return fit_patch(model, voxel_size, patch, LARGE, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_of_the_tests_are_not_refused(name):
    _settle(make_model(name))


@pytest.mark.parametrize("patch", [(30, 100, 100), (13, 61, 27), (7, 33, 9)])
@pytest.mark.parametrize("name", [n for n in NETWORKS if "-" not in n])
def test_a_patch_that_does_not_divide_is_refused_and_the_nearest_works(name, patch):
    model = make_model(name)
    with pytest.raises(DataError, match="does not divide") as caught:
        _settle(model, patch)
    nearest = tuple(map(int, str(caught.value).rsplit("[")[-1][:-1].split(",")))
    assert all(0 <= n - p < 32 for n, p in zip(nearest, patch, strict=True))
    assert _settle(model, nearest)[0] == nearest


def test_a_patch_is_cut_to_the_volume_and_padded_to_the_network():
    model = ModelConfig(filters=(4, 8, 16))
    patch, pyramid = fit_patch(model, (1, 1, 1), (32, 32, 32), (10, 30, 400), 2)
    assert pyramid.multiple[1:] == (4, 4)
    assert patch == (10, 32, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_predicts_the_smallest_window(name, build):
    model = make_model(name)
    network, pyramid = build(model, (16, 32, 32), (20.0, 10.0, 10.0))
    window = fit_window(model, pyramid, (1, 1, 1))
    assert prod(window) <= 2 * prod(pyramid.multiple)
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 1, *window))[0].shape[2:] == window


def test_a_window_is_not_made_larger_than_needed():
    model = ModelConfig(filters=(4, 8, 16))
    pyramid = Pyramid(((1, 2, 2), (2, 2, 2)), ((1, 3, 3),) * 3)
    assert fit_window(model, pyramid, (5, 9, 12)) == (6, 12, 12)
    assert fit_window(model, pyramid, (1, 2, 3)) == (2, 4, 4)


def test_a_patch_that_vanishes_at_the_deepest_level_is_refused():
    model = ModelConfig(
        filters=(4, 8, 8), down_factors=((4, 4, 4),) * 2, rsunet_norm="instance"
    )
    with pytest.raises(DataError, match=r"single voxel.*at least \[32, 32, 32\]"):
        _settle(model, (16, 16, 16))
    assert _settle(model, (32, 32, 32))[0] == (32, 32, 32)


@pytest.mark.parametrize("preset", preset_names())
def test_the_patches_of_presets_fit_any_voxel_size(preset):
    config = load_config(preset)
    for z, architecture in product((5, 10, 25, 60), ("rsunet", "monai_unet")):
        model = config.model.model_copy(update={"architecture": architecture})
        patch, _ = _settle(model, config.data.patch_size, (z, 10, 10))
        assert patch == config.data.patch_size


@pytest.mark.parametrize(
    ("name", "meant"),
    [("nnunet", "monai_dynunet"), ("unetr", "monai_unetr"), ("unet", "monai_unet")],
)
def test_other_names_mean_the_same_networks(name, meant):
    assert ModelConfig(architecture=name).architecture == meant


def test_rsunet_iso_halves_all_axes():
    model = load_config("quick", ["model.architecture=rsunet_iso"]).model
    assert model.architecture == "rsunet"
    assert set(model.down_factors) == {(2, 2, 2)}
    assert len(model.down_factors) == len(model.filters) - 1


@pytest.mark.parametrize("name", ["monai_basic_unet3d", "mednext_custom"])
def test_networks_that_are_not_built_name_the_nearest(name):
    with pytest.raises(DataError, match=f"{name} is not built here: take m"):
        load_config("quick", [f"model.architecture={name}"])


@pytest.mark.parametrize("name", [n for n in NETWORKS if "-" not in n])
def test_a_network_has_a_width_for_each_of_its_levels(name):
    model = make_model(name)
    widths = level_widths(model)
    assert len(widths) == model.depth
    assert min(widths) > 0

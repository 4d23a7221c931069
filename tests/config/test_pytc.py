"""Configurations of PyTorch Connectomics, version 1."""

from __future__ import annotations

import pytest
import yaml

from napari_volseg.config import (
    Config,
    load_config,
    preset_names,
    read_settings,
    why_left_out,
)
from napari_volseg.config.pytc import translate
from napari_volseg.config.pytc_keys import AUGMENTATIONS, LEFT_OUT, RENAMED
from napari_volseg.errors import DataError

VESICLES = """
experiment_name: vesicles
system:
  training: {num_gpus: 1, num_cpus: 8, batch_size: 4}
  inference: {num_gpus: 1, batch_size: 1}
  seed: 42
model:
  architecture: rsunet
  input_size: [16, 64, 64]
  in_channels: 1
  out_channels: 3
  strides: [2, 2]
  loss_functions: [DiceLoss, WeightedMSE]
  rsunet_down_factors: [[1, 2, 2], [1, 2, 2], [2, 2, 2]]
data:
  train_image: "em/vol*_im.h5"
  train_resolution: [30, 8, 8]
  use_preloaded_cache: true
  patch_size: [16, 64, 64]
  label_transform:
    targets:
      - name: binary
      - {name: instance_boundary, kwargs: {thickness: 1, mode: "2d"}}
      - {name: instance_edt, kwargs: {mode: "3d"}}
  augmentation:
    preset: some
    flip: {enabled: true, prob: 0.4, spatial_axis: [0, 1, 2]}
    affine: {enabled: false, prob: 0.3}
    rotate: {enabled: true}
    intensity: {enabled: true, shift_intensity_prob: 0.1, contrast_prob: 0.25}
optimization:
  optimizer: {lr: 1e-3, eps: 1.0e-8}
  scheduler: {name: WarmupCosineLR, warmup_epochs: 5}
inference:
  data:
    test_image: em/vol9_im.h5
    test_label: em/vol9_lab.h5
    output_path: outputs/
  sliding_window: {window_size: [16, 64, 64], sw_batch_size: 2, overlap: 0.5}
  test_time_augmentation: {enabled: true, flip_axes: [[1], [2], [1, 2]]}
  decoding:
    - name: decode_binary_contour_distance_watershed
      kwargs:
        binary_threshold: [0.9, 0.85]
        contour_threshold: [0.8, 1.1]
        distance_threshold: [0.5, -0.2]
        min_instance_size: 16
        min_seed_size: 7
        prediction_scale: 1
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text=VESICLES, **changes):
        tree = yaml.safe_load(text)
        for key, value in changes.items():
            *sections, name = key.split("__")
            place = tree
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = value
        path = tmp_path / "vesicles.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write_file


def test_shared_keys_mean_the_same_and_renamed_ones_arrive(write):
    config = load_config(write())
    assert config.experiment_name == "vesicles"
    assert config.system.seed == 42
    assert config.system.training.batch_size == 4
    assert config.data.train_image == ("em/vol*_im.h5",)
    assert config.data.voxel_size == (30, 8, 8)
    assert config.data.test_image == ("em/vol9_im.h5",)
    assert config.data.test_label == ("em/vol9_lab.h5",)
    assert config.model.down_factors == ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert config.optimization.optimizer.lr == 1e-3
    assert config.optimization.scheduler.name == "warmup_cosine"


def test_windows_and_flips_of_the_prediction_arrive(write):
    inference = load_config(write()).inference
    assert inference.window_size == (16, 64, 64)
    assert inference.batch_size == 2
    assert inference.overlap == 0.5
    assert inference.flips == "yx"


@pytest.mark.parametrize(
    ("changes", "flips"),
    [
        ({"enabled": False, "flip_axes": "all"}, "none"),
        ({"enabled": True, "flip_axes": "all"}, "zyx"),
        ({"enabled": True, "flip_axes": None}, "none"),
        ({"enabled": True, "flip_axes": [[0], [1]]}, "zyx"),
        ({"enabled": True, "flip_axes": [1, 2]}, "yx"),
    ],
)
def test_flips_follow_their_axes(write, changes, flips):
    path = write(inference__test_time_augmentation=changes)
    assert load_config(path).inference.flips == flips


def test_thresholds_of_their_decoder_become_those_of_instances(write):
    instances = load_config(write()).instances
    assert (instances.seed_mask, instances.mask) == (0.9, 0.85)
    assert (instances.seed_boundary, instances.boundary) == (0.8, 1.1)
    assert (instances.seed_distance, instances.distance) == (0.5, 0.0)
    assert (instances.min_seed_size, instances.min_size) == (7, 16)


def test_the_dimensions_of_targets_arrive(write):
    targets = load_config(write()).data.targets
    assert (targets.boundary, targets.distance) == ("2d", "3d")


def test_probabilities_of_augmentations_arrive(write):
    augmentation = load_config(write()).augmentation
    assert augmentation.flip == 0.4
    assert augmentation.rotate90 == 0.5
    assert augmentation.affine == 0
    assert augmentation.intensity == 0.25


def test_what_has_no_counterpart_is_named_with_its_reason(write):
    left_out = read_settings(write())[1]
    assert {
        "model.strides", "data.use_preloaded_cache", "inference.data.output_path",
        "system.inference.num_gpus", "model.in_channels",
        "data.augmentation.flip.spatial_axis",
    } <= set(left_out)  # fmt: skip
    assert all(why_left_out(key) for key in left_out)
    understood = {"inference.decoding", "data.label_transform.targets",
                  "data.augmentation.flip.prob", "model.out_channels"}  # fmt: skip
    assert not understood & set(left_out)


def test_an_override_wins_whichever_word_it_uses(write):
    path = write()
    overlap = ["inference.sliding_window.overlap=0.1"]
    assert load_config(path, overlap).inference.overlap == 0.1
    assert load_config("hydra-lv", overlap).inference.overlap == 0.1
    assert load_config(path, ["inference.overlap=0.2"]).inference.overlap == 0.2


def test_an_override_without_counterpart_is_an_error(write):
    with pytest.raises(DataError, match=r"'model\.strides' of PyTorch Connectomics"):
        load_config(write(), ["model.strides=[2,2]"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__out_channels": 12}, "always predicts three maps"),
        (
            {"data__label_transform": {"targets": [{"name": "affinity"}]}},
            "asks for 'affinity'",
        ),
        ({"data__patch_sise": [1, 2, 3]}, "did you mean 'data.patch_size'"),
        ({"modle__filters": [4, 8]}, "did you mean 'model.filters'"),
        ({"default": {"model": {}}}, "PyTorch Connectomics 2"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(write, changes, message):
    with pytest.raises(DataError, match=message):
        load_config(write(**changes))


def _keys(section, prefix=""):
    for name, field in section.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_tables_lead_to_settings_that_exist():
    known = set(_keys(Config))
    assert set(RENAMED.values()) <= known
    for places in AUGMENTATIONS.values():
        assert (
            not places
            or any(f"augmentation.{p}" in known for p in places)
            or (places[0] in {"elastic", "cut_noise"})
        )
    assert not known & set(RENAMED)
    assert all(reason and "\n" not in reason for reason in LEFT_OUT.values())


@pytest.mark.parametrize("name", preset_names())
def test_our_own_files_pass_through_unchanged(name):
    tree, left_out = read_settings(name)
    assert left_out == ()
    assert translate(tree, set(_keys(Config)), name) == (tree, ())

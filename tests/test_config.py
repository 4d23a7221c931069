import pytest
import yaml
from pydantic import ValidationError

from napari_volseg.config import (
    Config,
    apply_overrides,
    build_config,
    dump_config,
    load_config,
    preset_names,
    preset_summary,
)
from napari_volseg.errors import DataError
from napari_volseg.runs import TrainingPair, create_run, read_config

# Every setting that the commands of the hydra-lv document change.
SEED_OVERRIDES = [
    ["system.training.batch_size=8"],
    ["system.training.num_gpus=1", "system.training.batch_size=4"],
    ["system.training.batch_size=8", "optimization.accumulate_grad_batches=2"],
    [
        "model.architecture=monai_unet",
        "data.patch_size=[24,96,96]",
        "model.input_size=[24,96,96]",
        "model.output_size=[24,96,96]",
        "model.filters=[32,64,128,256]",
        "model.down_factors=null",
        "model.loss_weights=[1.0,0.5,2.0]",
        "system.training.batch_size=32",
        "experiment_name=hydra_lv_baseline",
    ],
    ["optimization.optimizer.lr=0.0005"],
    ["optimization.gradient_clip_val=0.3"],
    ["system.training.num_workers=16"],
    ["system.training.num_workers=0"],
    [
        "model.architecture=mednext",
        "model.mednext_size=B",
        "model.deep_supervision=true",
    ],
    ["model.deep_supervision=true"],
    [
        "data.val_image=datasets/hydra-lv/vol_val*_im.h5",
        "data.val_label=datasets/hydra-lv/vol_val*_vesicle_ins.h5",
        "data.val_mask=datasets/hydra-lv/vol_val*_mask.h5",
    ],
]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_survives_yaml(name):
    config = load_config(name)
    assert preset_summary(name) == config.description != ""
    assert build_config(yaml.safe_load(dump_config(config))) == config


def test_the_presets_are_there():
    assert {"quick", "hydra-lv", "nuclei", "cells"} <= set(preset_names())


def test_hydra_lv_holds_the_settings_of_its_document():
    config = load_config("hydra-lv")
    assert config.model.filters == (32, 64, 128, 256, 512)
    assert config.model.loss_weights == (1, 1, 3)
    assert config.data.patch_size == config.model.input_size == (32, 128, 128)
    assert config.data.pad_size == (8, 24, 24)
    assert config.system.training.batch_size == 16
    assert config.optimization.precision == "bf16-mixed"
    scheduler = config.optimization.scheduler
    assert (scheduler.name, scheduler.factor) == ("ReduceLROnPlateau", 0.5)
    assert config.monitor.early_stopping.patience == 100
    assert config.monitor.early_stopping.threshold == 0.02


@pytest.mark.parametrize("overrides", SEED_OVERRIDES, ids=lambda o: o[0])
def test_overrides_of_the_hydra_document_are_taken_as_they_are(overrides):
    config = load_config("hydra-lv", overrides)
    tree = config.model_dump(mode="json")
    for override in overrides:
        key, text = override.split("=", 1)
        value = tree
        for part in key.split("."):
            value = value[part]
        wanted = yaml.safe_load(text)
        assert value in (wanted, [wanted])


def test_a_yaml_file_works_in_the_place_of_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optimization: {optimizer: {lr: 1e-4}}")
    assert load_config(path).optimization.optimizer.lr == 1e-4


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.loss.mask={focal: 1.0}", {"focal": 1}),
        ("model.loss.mask.focal=1", {"bce": 1, "dice": 1, "focal": 1}),
        ("model.loss.mask.dice=0", {"bce": 1, "dice": 0}),
    ],
)
def test_a_whole_value_replaces_and_a_part_is_added(
    tmp_path, tiny_config, cells, override, expected
):
    partial, whole = tmp_path / "partial.yaml", tmp_path / "whole.yaml"
    partial.write_text("model: {filters: [4, 8]}")
    whole.write_text("model: {loss: {mask: {bce: 1, dice: 1}}}")
    run = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)
    for name in ("quick", partial, whole):
        assert load_config(name, [override]).model.loss.mask == expected
    assert read_config(run, [override]).model.loss.mask == expected


def test_parts_are_added_to_what_the_file_and_the_overrides_before_say(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {loss: {mask: {mse: 1}}, filters: [4, 8]}")
    both = ["model.loss.mask={dice: 2}", "model.loss.mask.bce=1"]
    assert load_config(path, both).model.loss.mask == {"dice": 2, "bce": 1}
    config = load_config(path, both[1:])
    assert config.model.loss.mask == {"mse": 1, "bce": 1}
    assert config.model.filters == (4, 8)


def test_a_number_in_quotes_stays_a_choice(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optimization: {precision: '32'}")
    assert load_config(path).optimization.precision == "32"
    assert load_config("quick", ["optimization.precision='32'"]) == load_config(
        "quick", ["optimization.precision=32"]
    )


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("system.training.batchsize=8", "system.training.batch_size"),
        ("optimisation.max_epochs=3", "optimization.max_epochs"),
        ("model.filter=[1,2]", "model.filters"),
        ("lr=0.1", "optimization.optimizer.lr"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key, near):
    with pytest.raises(DataError, match=f"did you mean '{near}'"):
        load_config("quick", [key])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(DataError, match="did you mean 'nuclei'"):
        load_config("nucleii")


def test_a_section_may_be_empty(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data:\n  # patch_size: [8, 32, 32]\nmodel:\n  filters: [4, 8]\n")
    config = load_config(path)
    assert config.data == Config().data
    assert config.model.filters == (4, 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("system.training.batch_size=0", "batch_size.*greater than or equal to 1"),
        ("system.training.batch_size=many", "batch_size.*integer"),
        ("model.architecture=vgg", "architecture.*rsunet"),
        ("data.patch_size=[32,128]", "patch_size.2: the list is too short"),
        ("data.patch_size=[8,8,8,8]", "patch_size: the list is too long"),
        ("data.patch_size=32", "patch_size: give a list in brackets"),
        ("data.voxel_size=30,8,8", "voxel_size: give a list in brackets"),
        ("model.input_size=[8,8,8]", "must equal data.patch_size"),
        ("data.percentiles=[0.9,0.1]", "percentiles must rise"),
        ("model.down_factors=[[1,2,2]]", "needs 3 entries"),
        ("model=3", "model is a section"),
        ("batch_size", "is not a setting"),
        ("=3", "is not a setting"),
        ("data.targets.boundary_nm=.inf", "finite"),
        ("model.loss.mask={bce: .inf}", "finite"),
        ("system.seed=4294967296", "less than or equal to 4294967295"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(override, message):
    with pytest.raises(DataError, match=message) as caught:
        load_config("quick", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["- a\n- b", "a: [", "!!python/object:os.system {}", "\x00"]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.yaml"):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "data: {folds: 3}\noptimization: {max_epochs: 3}\ndata: {fold: 1}\n",
        "data:\n  folds: 3\n  folds: 4\n",
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.yaml.* stands twice.*line 3"):
        load_config(path)


def test_what_is_merged_in_may_be_overridden(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "optimization:\n  scheduler:\n"
        "    <<: {min_lr: 1e-4, rise: 0.2}\n    rise: 0.1\n"
    )
    scheduler = load_config(path).optimization.scheduler
    assert (scheduler.min_lr, scheduler.rise) == (1e-4, 0.1)


@pytest.mark.parametrize("name", ["2024-01-01", "1:30"])
def test_dates_and_times_are_text(tmp_path, name):
    path = tmp_path / "mine.yaml"
    path.write_text(f"experiment_name: {name}\n")
    assert load_config(path).experiment_name == name
    assert load_config("quick", [f"experiment_name={name}"]).experiment_name == name


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/data/run #2/em.h5:raw", "/data/run #2/em.h5:raw"),
        ("'/data/run #2/em.h5'", "/data/run #2/em.h5"),
        ('["/data/run #2/em.h5"]', "/data/run #2/em.h5"),
        ("''", ""),
    ],
)
def test_a_path_on_the_command_line_may_hold_a_hash(text, path):
    config = load_config("quick", [f"data.train_image={text}"])
    assert config.data.train_image == (path,)


def test_zeros_before_a_number_mean_nothing():
    assert load_config("quick", ["system.seed=010"]).system.seed == 10


def test_minutes_are_not_counted_in_sixties():
    with pytest.raises(DataError, match=r"max_minutes.*1:30"):
        load_config("quick", ["optimization.max_minutes=1:30"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        load_config(tmp_path / "none.yaml")


def test_overrides_leave_the_tree_they_are_applied_to():
    tree = {"data": {"foreground": 0.5}}
    assert apply_overrides(tree, ["data.foreground=0.7"])["data"]["foreground"] == 0.7
    assert tree == {"data": {"foreground": 0.5}}


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError):
        Config().experiment_name = "other"


def _fields(section):
    for field in section.model_fields.values():
        kind = field.annotation
        if isinstance(kind, type) and hasattr(kind, "model_fields"):
            yield from _fields(kind)
        else:
            yield field


def test_every_setting_explains_itself_in_one_line():
    for field in _fields(Config):
        assert field.description
        assert "\n" not in field.description
        assert field.description.endswith(".")

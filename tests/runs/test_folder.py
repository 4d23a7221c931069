import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.io import write_hdf5
from napari_volseg.runs import (
    NewLabels,
    TrainingPair,
    add_revision,
    amend_run,
    collect_pairs,
    create_run,
    has_checkpoint,
    is_run,
    lock,
    newest_pairs,
    read_run,
)
from napari_volseg.volume import LabelledVolume, Volume


@pytest.fixture
def image_file(tmp_path, cells) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    path = folder / "em.h5"
    arrays = {"raw": cells.image.data, "labels": cells.labels_ZYX}
    write_hdf5(path, arrays, cells.image.voxel_size)
    return path


def _same(a: LabelledVolume, b: LabelledVolume) -> None:
    np.testing.assert_array_equal(a.image.read(), b.image.read())
    np.testing.assert_array_equal(a.labels_ZYX, b.labels_ZYX)
    assert a.image.voxel_size == b.image.voxel_size
    assert a.image.name == b.image.name
    if b.annotated_ZYX is None:
        assert a.annotated_ZYX is None
    else:
        np.testing.assert_array_equal(a.annotated_ZYX, b.annotated_ZYX)


def test_what_is_in_memory_comes_back(tmp_path, tiny_config, cells, make_cells):
    annotated = np.zeros(cells.labels_ZYX.shape, bool)
    annotated[:6] = True
    pairs = [
        TrainingPair(replace(cells, annotated_ZYX=annotated), None),
        TrainingPair(make_cells(seed=1, name="zweites: ünï"), None, "val"),
    ]
    folder = create_run(tiny_config, pairs, tmp_path / "runs")
    assert folder == tmp_path / "runs" / "tiny"
    config, restored = read_run(folder)
    assert config == tiny_config
    assert [p.role for p in restored] == ["train", "val"]
    for got, given in zip(restored, pairs, strict=True):
        _same(got.volume, given.volume)
        assert got.source is None


def test_ids_beyond_32_bits_survive(tmp_path, tiny_config, cells):
    labels = cells.labels_ZYX.astype(np.int64) * 2**40
    pair = TrainingPair(replace(cells, labels_ZYX=labels), None)
    _, (restored,) = read_run(create_run(tiny_config, [pair], tmp_path))
    np.testing.assert_array_equal(restored.volume.labels_ZYX, labels)


def test_corrected_places_stay_with_their_pair(
    tmp_path, tiny_config, cells, make_cells
):
    boxes = (Box((0, 0, 0), (8, 32, 32)), Box((8, 0, 32), (12, 32, 40)))
    pairs = [
        TrainingPair(make_cells(seed=1), None),
        TrainingPair(cells, None, corrected=boxes),
    ]
    folder = create_run(tiny_config, pairs, tmp_path)
    _, restored = read_run(folder)
    assert [pair.corrected for pair in restored] == [(), boxes]
    new = NewLabels(np.where(cells.labels_ZYX == 1, 0, cells.labels_ZYX))
    assert add_revision(folder, [new, new]) == 2
    revised = newest_pairs(folder, restored)
    assert [pair.corrected for pair in revised] == [(), boxes]


def test_painting_on_after_the_start_changes_nothing(tmp_path, tiny_config, cells):
    labels = cells.labels_ZYX.copy()
    pair = TrainingPair(replace(cells, labels_ZYX=labels), None)
    folder = create_run(tiny_config, [pair], tmp_path)
    labels[:] = 7
    _, (restored,) = read_run(folder)
    np.testing.assert_array_equal(restored.volume.labels_ZYX, cells.labels_ZYX)


def test_a_run_never_takes_the_place_of_another(tmp_path, tiny_config, cells):
    pairs = [TrainingPair(cells, None)]
    names = [create_run(tiny_config, pairs, tmp_path, "x").name for _ in range(2)]
    assert names == ["x", "x-2"]


@pytest.mark.parametrize("name", ["run [1]", "ünï code 🙂", "50%", "it's", "a:b"])
def test_odd_names_work(tmp_path, tiny_config, cells, name):
    folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path / name, name)
    _, (restored,) = read_run(folder)
    _same(restored.volume, cells)


def test_an_image_in_a_file_is_referred_to_and_not_copied(
    tmp_path, tiny_config, cells, image_file
):
    source = f"{image_file}:raw"
    folder = create_run(tiny_config, [TrainingPair(cells, source)], tmp_path / "runs")
    with h5py.File(folder / "data" / "000.h5") as file:
        assert set(file) == {"labels"}
    _, (restored,) = read_run(folder)
    assert restored.source == source
    _same(restored.volume, cells)


def test_an_image_that_changed_is_refused(tmp_path, tiny_config, cells, image_file):
    pair = TrainingPair(cells, f"{image_file}:raw")
    folder = create_run(tiny_config, [pair], tmp_path / "runs")
    with h5py.File(image_file, "r+") as file:
        file["raw"][0, 0, 0] ^= 255
    with pytest.raises(DataError, match=r"em\.h5 has changed"):
        read_run(folder)


def test_an_image_that_is_gone_is_named(tmp_path, tiny_config, cells, image_file):
    pair = TrainingPair(cells, f"{image_file}:raw")
    folder = create_run(tiny_config, [pair], tmp_path / "runs")
    image_file.unlink()
    with pytest.raises(DataError, match=r"em\.h5 .* not there any more"):
        read_run(folder)


def test_a_run_moved_with_its_images_finds_them(
    tmp_path, tiny_config, cells, image_file
):
    pair = TrainingPair(cells, f"{image_file}:raw")
    folder = create_run(tiny_config, [pair], tmp_path / "images" / "runs")
    shutil.move(tmp_path / "images", tmp_path / "elsewhere")
    _, (restored,) = read_run(tmp_path / "elsewhere" / "runs" / folder.name)
    _same(restored.volume, cells)


def test_an_image_put_beside_a_copied_run_is_found(
    tmp_path, tiny_config, cells, image_file
):
    pair = TrainingPair(cells, f"{image_file}:raw")
    folder = create_run(tiny_config, [pair], tmp_path / "runs")
    copy = tmp_path / "usb" / "deep" / "run"
    shutil.copytree(folder, copy)
    shutil.move(image_file, copy.parent / "em.h5")
    _, (restored,) = read_run(copy)
    _same(restored.volume, cells)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_nothing_in_a_run_is_for_others(tmp_path, tiny_config, cells):
    before = os.umask(0)
    try:
        folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_snapshot_that_fails_leaves_nothing(
    tmp_path, tiny_config, cells, monkeypatch
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_volseg.runs.folder.write_hdf5", full)
    with pytest.raises(DataError, match="No space left"):
        create_run(tiny_config, [TrainingPair(cells, None)], tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_needs_something_to_train_on(tmp_path, tiny_config, cells):
    with pytest.raises(DataError, match="nothing to train on"):
        create_run(tiny_config, [TrainingPair(cells, None, "val")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_no_runs(tmp_path):
    assert not is_run(tmp_path)
    with pytest.raises(DataError, match="is not a run folder"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 1, "pairs": [{}]}', '{"format": "a"}']
)
def test_a_damaged_table_of_pairs_is_named(tmp_path, tiny_config, cells, text):
    folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)
    (folder / "data" / "pairs.json").write_text(text)
    with pytest.raises(DataError, match=r"pairs\.json is damaged"):
        read_run(folder)


def test_a_run_of_a_newer_version_is_refused(tmp_path, tiny_config, cells):
    folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)
    (folder / "data" / "pairs.json").write_text('{"format": 99, "pairs": []}')
    with pytest.raises(DataError, match="newer version"):
        read_run(folder)


def test_settings_that_weights_do_not_depend_on_can_change(
    tmp_path, tiny_config, cells
):
    folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)
    amend_run(folder, ["optimization.max_epochs=9"])
    assert read_run(folder)[0].optimization.max_epochs == 9
    with pytest.raises(DataError, match=r"model\.filters"):
        amend_run(folder, ["model.filters=[8,16]"])
    with lock(folder), pytest.raises(DataError, match="in use"):
        amend_run(folder, ["optimization.max_epochs=10"])
    assert read_run(folder)[0].optimization.max_epochs == 9


def test_another_optimizer_is_refused_once_there_is_a_checkpoint(
    tmp_path, tiny_config, cells
):
    folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path)
    amend_run(folder, ["optimization.optimizer.name=SGD"])
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(DataError, match="its checkpoints are those of SGD"):
        amend_run(folder, ["optimization.optimizer.name=AdamW"])
    assert (folder / "config.yaml").read_bytes() == before
    amend_run(folder, ["optimization.optimizer.name=SGD"])


def test_checkpoints_are_seen(tmp_path):
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"x")
    assert has_checkpoint(tmp_path)


def _config_with(config, **data):
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def test_pairs_are_collected_in_order_from_globs(tmp_path, tiny_config, make_cells):
    for i in (10, 2):
        volume = make_cells(seed=i)
        arrays = {"raw": volume.image.data, "truth": volume.labels_ZYX}
        write_hdf5(tmp_path / f"vol{i}.h5", arrays, volume.image.voxel_size)
    config = _config_with(
        tiny_config,
        train_image=(f"{tmp_path}/vol*.h5:raw",),
        train_label=(f"{tmp_path}/vol*.h5:truth",),
    )
    pairs = collect_pairs(config)
    assert [p.source for p in pairs] == [
        f"{tmp_path}/vol2.h5:raw",
        f"{tmp_path}/vol10.h5:raw",
    ]
    _same_image = [p.volume.image.read() for p in pairs]
    np.testing.assert_array_equal(_same_image[0], make_cells(seed=2).image.read())


def test_the_voxel_size_of_the_configuration_wins(tiny_config, image_file):
    config = _config_with(
        tiny_config,
        train_image=(f"{image_file}:raw",),
        train_label=(f"{image_file}:labels",),
        voxel_size=(50.0, 5.0, 5.0),
    )
    (pair,) = collect_pairs(config)
    assert pair.volume.image.voxel_size == (50.0, 5.0, 5.0)


def test_the_annotation_rule_is_applied(tmp_path, tiny_config, cells):
    labels = cells.labels_ZYX.copy()
    labels[4:] = 0
    path = tmp_path / "em.h5"
    write_hdf5(path, {"raw": cells.image.data, "labels": labels}, (1.0, 1.0, 1.0))
    config = _config_with(
        tiny_config,
        train_image=(f"{path}:raw",),
        train_label=(f"{path}:labels",),
        annotated="painted_slices",
    )
    (pair,) = collect_pairs(config)
    painted = pair.volume.annotated_ZYX.all(axis=(1, 2))
    np.testing.assert_array_equal(painted, labels.any(axis=(1, 2)))


def test_counts_that_differ_are_told(tiny_config, image_file):
    config = _config_with(
        tiny_config,
        train_image=(f"{image_file}:raw", f"{image_file}:raw"),
        train_label=(f"{image_file}:labels",),
    )
    with pytest.raises(DataError, match=r"train_image names 2 .*train_label 1"):
        collect_pairs(config)
    with pytest.raises(DataError, match="--image SRC --label SRC"):
        collect_pairs(tiny_config)


def test_a_mask_for_each_image_or_none(tiny_config, image_file):
    config = _config_with(
        tiny_config,
        train_image=(f"{image_file}:raw",),
        train_label=(f"{image_file}:labels",),
        train_mask=(f"{image_file}:labels", f"{image_file}:labels"),
    )
    with pytest.raises(DataError, match="train_mask"):
        collect_pairs(config)


def test_an_image_of_a_dask_like_array_is_copied(tmp_path, tiny_config, cells):
    class Lazy:
        shape = cells.labels_ZYX.shape
        dtype = np.dtype("uint8")

        def __getitem__(self, key):
            return np.asarray(cells.image.data[key])

    volume = replace(cells, image=Volume(Lazy(), (1.0, 1.0, 1.0), "lazy"))
    _, (restored,) = read_run(
        create_run(tiny_config, [TrainingPair(volume, None)], tmp_path)
    )
    np.testing.assert_array_equal(restored.volume.image.read(), cells.image.read())

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_volseg.errors import DataError
from napari_volseg.io import Source, content_hash, expand_sources, parse_source, sources

numbers = st.none() | st.integers(-999, 999)
steps = st.none() | st.integers(-9, 9).filter(bool)
items = st.integers(-999, 999) | st.builds(slice, numbers, numbers, steps)
indices = st.none() | st.lists(items, min_size=1, max_size=5).map(tuple)
words = st.text("abz09 _é☃-", min_size=1, max_size=8).map(lambda t: f"x{t}x")


@given(
    folder=st.sampled_from(["", "/data/", "C:\\lab\\", "../"]),
    name=words,
    suffix=st.sampled_from([".h5", ".ome.zarr", ".tif", ""]),
    dataset=st.none() | st.lists(words, min_size=1, max_size=3).map("/".join),
    index=indices,
)
def test_sources_survive_text(folder, name, suffix, dataset, index):
    source = Source(Path(f"{folder}{name}{suffix}"), dataset, index)

    assert parse_source(str(source)) == source


@pytest.mark.parametrize(
    ("text", "path", "dataset", "index"),
    [
        ("em.h5", "em.h5", None, None),
        (
            "em.h5:raw[0:100,:,:]",
            "em.h5",
            "raw",
            (slice(0, 100), slice(None), slice(None)),
        ),
        ("em.h5[ -1 , ::2 ]", "em.h5", None, (-1, slice(None, None, 2))),
        ("C:\\a.h5:raw", "C:\\a.h5", "raw", None),
        ("C:\\a.h5", "C:\\a.h5", None, None),
        ("d:/a.h5", "d:/a.h5", None, None),
        ("em.h5:volumes/labels", "em.h5", "volumes/labels", None),
        ("12:30.h5:raw", "12:30.h5", "raw", None),
        ("vol[ab]", "vol[ab]", None, None),
        ("vol[0-9]", "vol[0-9]", None, None),
        ("vol[12]*.h5:raw[0]", "vol[12]*.h5", "raw", (0,)),
    ],
)
def test_parse(text, path, dataset, index):
    assert parse_source(text) == Source(Path(path), dataset, index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (":raw", "no file"),
        ("a.h5:", "no dataset"),
        ("https://host/a.zarr", "download it"),
        ("a.h5[1:2:3:4]", "index"),
        ("a.h5[::0]", "index"),
        ("a.h5[]", "index"),
        ("a.h5[,]", "index"),
        ("a.h5[1--2:]", "index"),
        (f"a.h5[{'9' * 5000}]", "index"),
    ],
)
def test_malformed_sources_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_source(text)


def test_an_existing_file_is_taken_as_it_is(tmp_path):
    file = tmp_path / "a:b[0].tif"
    file.touch()

    assert parse_source(str(file)) == Source(file)
    assert parse_source(f"{tmp_path}/a:b[0].tif[1]").index == (1,)


def test_globs_expand_in_natural_order_and_keep_dataset_and_index(tmp_path):
    for name in ("vol10_im.h5", "vol2_im.h5", "vol1_im.h5", "vol1_lab.h5"):
        (tmp_path / name).touch()

    found = expand_sources([f"{tmp_path}/vol*_im.h5:raw[0:5]", f"{tmp_path}/x.h5"])

    assert [Path(f).name for f in found] == [
        "vol1_im.h5:raw[0:5]",
        "vol2_im.h5:raw[0:5]",
        "vol10_im.h5:raw[0:5]",
        "x.h5",
    ]


@pytest.mark.parametrize(
    "pattern", ["*T12:30/*.h5", "2024-05-01T12:30/*.h5", "2024-05-01T12:30/**/*.h5"]
)
def test_a_glob_below_a_folder_with_a_colon(tmp_path, pattern):
    folder = tmp_path / "2024-05-01T12:30"
    folder.mkdir()
    for name in ("vol1.h5", "vol2.h5"):
        (folder / name).touch()

    for rest in ("", "[0:5]", ":raw", ":volumes/raw[0:5]"):
        found = expand_sources([f"{tmp_path}/{pattern}{rest}"])
        assert found == [f"{folder}/vol1.h5{rest}", f"{folder}/vol2.h5{rest}"]


def test_a_file_with_a_colon_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "12:30.h5").touch()
    assert parse_source("~/12:30.h5") == Source(Path("~/12:30.h5"))
    part = parse_source("~/12:30.h5[0:5]")
    assert (part.path, part.dataset) == (Path("~/12:30.h5"), None)
    assert parse_source("~/12:30.h5:raw").dataset == "raw"


def test_a_glob_below_a_folder_with_a_colon_that_matches_nothing(tmp_path):
    (tmp_path / "12:30").mkdir()
    with pytest.raises(DataError, match=r"12:30 matches no\*\.h5"):
        expand_sources([f"{tmp_path}/12:30/no*.h5"])


def test_a_glob_that_matches_nothing_names_folder_and_pattern(tmp_path):
    with pytest.raises(DataError) as caught:
        expand_sources([f"{tmp_path}/no*.h5"])

    assert str(tmp_path) in str(caught.value)
    assert "no*.h5" in str(caught.value)


def test_a_file_whose_name_looks_like_a_glob_is_not_expanded(tmp_path):
    file = tmp_path / "cells[ab].h5"
    file.touch()

    assert expand_sources([str(file)]) == [str(file)]


def test_hash_follows_content_not_name_or_time(tmp_path):
    one, two, other = (tmp_path / name for name in ("one.npy", "two.npy", "other.npy"))
    np.save(one, np.arange(10))
    np.save(two, np.arange(10))
    np.save(other, np.arange(1, 11))
    os.utime(two, (0, 0))

    assert content_hash(f"{one}[0:5]") == content_hash(str(two))
    assert content_hash(str(one)) != content_hash(str(other))
    assert content_hash(str(one)).startswith("sha256:")


def test_hash_of_a_folder_covers_names_and_every_file(tmp_path):
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "c").write_bytes(b"1")
    first = content_hash(str(folder))
    (folder / "0" / "c").write_bytes(b"2")
    second = content_hash(str(folder))
    (folder / "0" / "c").rename(folder / "0" / "d")

    assert len({first, second, content_hash(str(folder))}) == 3


def test_large_files_are_sampled_to_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_HASH_WHOLE", 1000)
    monkeypatch.setattr(sources, "_MIB", 16)
    file = tmp_path / "big"
    content = bytearray(os.urandom(5000))
    hashes = []
    for change in (None, 0, 4999):
        if change is not None:
            content[change] ^= 1
        file.write_bytes(content)
        hashes.append(content_hash(str(file)))

    assert len(set(hashes)) == 3
    assert all(h.startswith("sha256-sampled:") for h in hashes)


def test_a_tilde_is_part_of_a_name_where_no_such_user_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    name = Path("~no user's.npy")
    np.save(name, np.zeros((2, 3, 4)))

    assert sources.check_exists(name) == name
    assert content_hash(str(name)).startswith("sha256:")
    with pytest.raises(DataError, match="~somebody at all does not exist"):
        sources.check_exists(Path("~somebody at all"))
    with pytest.raises(DataError, match=f"there is no folder {tmp_path / 'home'}"):
        sources.check_exists(Path("~/em.npy"))

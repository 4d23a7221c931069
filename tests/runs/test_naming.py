import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_volseg.errors import DataError
from napari_volseg.runs import new_folder, safe_name


@given(st.text(max_size=400))
def test_any_text_becomes_one_safe_path_part(text):
    name = safe_name(text)
    assert name
    assert name not in {".", ".."}
    assert not set(name) & set('/\\:*?"<>|[]\n\0')
    assert len(name.encode()) <= 81
    assert name == name.strip(" .")


@pytest.mark.parametrize("text", ["Zellkerne ünï 🙂", "50 % off", "it's"])
def test_ordinary_names_stay(text):
    assert safe_name(text) == text


@pytest.mark.parametrize("text", ["CON", "nul", "com1.txt", "LPT9"])
def test_names_reserved_on_windows_change(text):
    assert safe_name(text) == f"{text}-"


def test_a_name_is_never_used_twice(tmp_path):
    folders = [new_folder(tmp_path / "runs", "a/b") for _ in range(3)]
    assert [f.name for f in folders] == ["a-b", "a-b-2", "a-b-3"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_folders_are_for_this_user_only(tmp_path):
    before = os.umask(0)
    try:
        folder = new_folder(tmp_path, "run")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_in_the_way_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--runs"):
        new_folder(tmp_path / "file", "run")

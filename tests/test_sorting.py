"""Files are sorted into folders, and none is lost."""

import json
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sorted_files import ALL, LABELS, each_way, files, photos, tree

from skdeepcluster.sorting import sort_into_folders, undo_sorting
from skdeepcluster.sorting._names import Names, folded

__all__ = ["photos"]


def relative(places, folder):
    return [str(Path(place).relative_to(folder)) for place in places]


@each_way
def test_files_are_sorted_again_and_back(photos, tmp_path, how):
    before, dest = tree(tmp_path), tmp_path / "new" / "sorted"
    places = sort_into_folders(photos, LABELS, dest, how)
    assert relative(places, dest) == [
        "00/0.jpg",
        "01/1.jpg",
        "rejected/2.jpg",
        "00/0 (2).jpg",
        "01/1 (2).jpg",
        "01/2.jpg",
    ]
    for place, path in zip(places, photos, strict=True):
        assert Path(place).read_text() == path[-7:]
        assert os.stat(place).st_mtime_ns == before[path[len(str(tmp_path)) + 1 :]][1]
        assert os.path.exists(path) == (how != "move")
        assert os.path.islink(place) == (how == "symlink")
        if how == "hardlink":
            assert os.path.samefile(place, path)
    after = tree(tmp_path)
    assert sort_into_folders(photos, LABELS, dest, how) == places
    assert tree(tmp_path) == after
    assert undo_sorting(dest) == 6
    assert tree(tmp_path) == before
    with pytest.raises(FileNotFoundError, match=r"no journal '.*sorting\.jsonl'"):
        undo_sorting(dest)


@each_way
def test_what_was_there_stays(photos, tmp_path, how):
    dest = tmp_path / "sorted"
    own = files(dest, "00/0.jpg", "00/0 (2).jpg", "note.txt")
    before = tree(tmp_path)
    places = sort_into_folders(photos, LABELS, dest, how)
    assert relative(places, dest)[::3] == ["00/0 (3).jpg", "00/0 (4).jpg"]
    assert [Path(path).read_text() for path in own] == [
        "00/0.jpg",
        "00/0 (2).jpg",
        "note.txt",
    ]
    assert undo_sorting(dest) == 6
    assert tree(tmp_path) == before


@each_way
def test_new_files_join_an_earlier_sorting(photos, tmp_path, how):
    before, dest = tree(tmp_path), tmp_path / "sorted"
    first = sort_into_folders(photos[:3], LABELS[:3], dest, how)
    both = sort_into_folders(photos, LABELS, dest, how)
    assert both[:3] == first
    assert len(set(both)) == 6 and all(map(os.path.exists, both))
    assert undo_sorting(dest) == 6
    assert tree(tmp_path) == before


@each_way
def test_other_labels_or_another_way_are_refused(photos, tmp_path, how):
    dest = tmp_path / "sorted"
    sort_into_folders(photos, LABELS, dest, how)
    after = tree(tmp_path)
    match = r"has 1 of these files in other folders:\n  '.*a/0\.jpg': in '00', now '01'"
    with pytest.raises(ValueError, match=match):
        sort_into_folders(photos, [1, *LABELS[1:]], dest, how)
    other = ALL[ALL.index(how) - 1]
    with pytest.raises(ValueError, match=f"holds a sorting of how='{how}'"):
        sort_into_folders(photos, LABELS, dest, other)
    assert tree(tmp_path) == after


def test_a_file_that_changed_is_sorted_beside_its_earlier_copy(photos, tmp_path):
    dest = tmp_path / "sorted"
    (old,) = sort_into_folders(photos[:1], [0], dest)
    Path(photos[0]).write_text("edited")
    (new,) = sort_into_folders(photos[:1], [0], dest)
    assert (Path(old).read_text(), Path(new).read_text()) == ("a/0.jpg", "edited")
    with pytest.raises(
        OSError, match=r"1 file in .* could not be undone, 1 could:\n  '00"
    ):
        undo_sorting(dest)
    assert Path(old).read_text() == "a/0.jpg"  # no other file has these bytes
    Path(old).unlink()
    assert undo_sorting(dest) == 0
    assert not dest.exists()


def test_a_copy_that_was_lost_is_made_again(photos, tmp_path):
    places = sort_into_folders(photos, LABELS, tmp_path / "sorted")
    os.unlink(places[3])
    assert sort_into_folders(photos, LABELS, tmp_path / "sorted") == places
    assert Path(places[3]).read_text() == "b/0.jpg"


def test_a_path_that_comes_twice(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    same = [photos[0], "photos/a/../a/0.jpg", b"link/a/0.jpg", Path(photos[0])]
    places = sort_into_folders(same, [3] * 4, "sorted", "move")
    assert places == [os.path.join("sorted", "03", "0.jpg")] * 4
    assert len(list((tmp_path / "sorted/03").iterdir())) == 1
    match = r"'.*1\.jpg' is in paths twice, with different labels.* to '00' and to '01'"
    with pytest.raises(ValueError, match=match):
        sort_into_folders([photos[1], photos[1]], [0, 1], "other")
    assert not Path("other").exists()


def test_dots_after_a_link_are_those_of_the_system(tmp_path):
    files(tmp_path, "x.jpg", "far/deep/y.jpg", "far/x.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    path = f"{tmp_path}/link/../x.jpg"
    assert Path(path).read_text() == "far/x.jpg"
    (place,) = sort_into_folders([path], [0], tmp_path / "sorted", "move")
    assert Path(place).read_text() == "far/x.jpg"
    assert (tmp_path / "x.jpg").exists() and not (tmp_path / "far/x.jpg").exists()


def test_twins_on_systems_that_see_less(tmp_path):
    composed, apart = (unicodedata.normalize(f, "café.jpg") for f in ("NFC", "NFD"))
    paths = files(
        tmp_path, "1/X.jpg", "2/x.JPG", f"3/{composed}", f"4/{apart}", "5/x (2).JPG"
    )
    paths += files(tmp_path, "6/STRASSE.jpg", "7/straße.jpg", "8/.hidden", "9/.Hidden")
    before = tree(tmp_path)
    places = sort_into_folders(paths, [0] * 9, tmp_path / "sorted", "move")
    names = [os.path.basename(place) for place in places]
    assert names == [
        "X.jpg",
        "x (3).JPG",
        composed,
        f"{apart[:-4]} (2).jpg",
        "x (2).JPG",  # keeps its own
        "STRASSE.jpg",
        "straße (2).jpg",
        ".hidden",
        ".Hidden (2)",
    ]
    assert len({folded(name) for name in names}) == 9
    undo_sorting(tmp_path / "sorted")
    assert tree(tmp_path) == before


def test_odd_names(tmp_path):
    odd = [
        os.fsdecode(b"\xff\xfe.jpg"),
        "a\nb'\"<>.jpg",
        "é" * 120 + ".jpeg",
        "x",
        "-f",
    ]
    paths = files(tmp_path, *(f"{d}/{name}" for name in odd for d in "ab"))
    before = tree(tmp_path)
    for how in ALL:
        places = sort_into_folders(paths, [0] * 10, tmp_path / "sorted", how)
        names = [os.path.basename(place) for place in places]
        assert names[::2] == odd
        assert names[1] == os.fsdecode(b"\xff\xfe (2).jpg")
        assert [os.fsdecode(Path(p).read_bytes()) for p in places] == [
            f"{d}/{name}" for name in odd for d in "ab"
        ]
        undo_sorting(tmp_path / "sorted")
        assert tree(tmp_path) == before
    long = Names(())
    longest = "é" * 125 + ".jpeg"
    assert [long.take_like(longest) for _ in range(3)] == [
        longest,
        "é" * 123 + " (2).jpeg",
        "é" * 123 + " (3).jpeg",
    ]


def test_many_files_of_one_name_are_numbered_at_once():
    names = Names(())
    found = [names.take_like("x.jpg") for _ in range(20_000)]
    assert found[:2] + found[-1:] == ["x.jpg", "x (2).jpg", "x (20000).jpg"]
    assert max(Counter(found).values()) == 1


@pytest.mark.parametrize(
    ("labels", "names", "folders"),
    [
        ([0, 9, -1], None, ["00", "09", "rejected"]),
        ([0, 10, 100], None, ["000", "010", "100"]),
        ([0.0, 2.0, -1.0], {2: "Cats"}, ["00", "Cats", "rejected"]),
        (np.array([1, 0, -1], np.int8), ["a b", "Ö"], ["Ö", "a b", "rejected"]),
        (
            [0, 1, -1],
            {-1: "unsure", np.int64(1): "👩‍🚀"},
            ["00", "👩‍🚀", "unsure"],
        ),
    ],
)
def test_names_of_folders(photos, tmp_path, labels, names, folders):
    places = sort_into_folders(photos[:3], labels, tmp_path / "sorted", names=names)
    assert [os.path.basename(os.path.dirname(place)) for place in places] == folders


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ({0: ".."}, ValueError, r"names\[0\]='\.\.' cannot be .* begins or ends with"),
        ({0: "a/b"}, ValueError, "holds '/'. Pass another"),
        ({7: "a\\b:"}, ValueError, r"holds ':', '\\\\'"),
        ({0: "a\nb"}, ValueError, r"holds '\\n'"),
        ({0: "\udcff"}, ValueError, "holds"),
        ({0: ""}, ValueError, "is empty"),
        ({0: ".git"}, ValueError, "begins or ends with a dot"),
        ({0: "cats "}, ValueError, "a dot or a space"),
        ({0: "Con.x"}, ValueError, "the name of a device on Windows"),
        ({0: "Sorting.JSONL"}, ValueError, "the name of the journal"),
        ({0: "é" * 128}, ValueError, "longer than 255 bytes"),
        ({0: "a", 1: "A"}, ValueError, "Clusters 0 and 1 would both .* folder 'a'"),
        ({0: "01"}, ValueError, "Clusters 0 and 1 would both be sorted"),
        ({0: "Rejected"}, ValueError, "Clusters -1 and 0 would both be sorted"),
        (["a"], ValueError, "names has 1 entries, but there is a cluster 1"),
        ("ab", TypeError, "names='ab' is one name"),
        ({"0": "a"}, TypeError, "each key should be the number of a cluster"),
        ({0: 5}, TypeError, r"names\[0\]=5 should be a str"),
    ],
)
def test_names_that_are_refused(photos, tmp_path, names, error, match):
    with pytest.raises(error, match=match):
        sort_into_folders(photos[:3], [0, 1, -1], tmp_path / "sorted", names=names)
    assert not (tmp_path / "sorted").exists()


@pytest.mark.parametrize(
    ("paths", "labels", "error", "match"),
    [
        ("a.jpg", [0], TypeError, r"'a\.jpg' is one path; a list is expected"),
        ([], [], ValueError, "paths is empty"),
        ({"a.jpg"}, [0], TypeError, "no order that labels could follow"),
        ([1.5], [0], TypeError, r"paths\[0\] is of type float"),
        (5, [0], TypeError, "paths is of type int"),
        (["a"], [0, 1], ValueError, r"labels has shape \(2,\); .*, shape \(1,\)\."),
        (["a"], 0, ValueError, r"labels has shape \(\)"),
        (["a", "b"], [0, 0.5], ValueError, "integers from -1 on, and hold 0.5"),
        (["a", "b"], [0, np.nan], ValueError, "integers from -1 on, and hold nan"),
        (["a", "b"], [-2, 0], ValueError, "integers from -1 on, and hold -2"),
        (["a", "b"], ["cat", "dog"], ValueError, "hold 'cat'. Number the clusters"),
        (["a", "b"], [0, None], ValueError, "hold None"),
    ],
)
def test_arguments_that_are_refused(tmp_path, paths, labels, error, match):
    with pytest.raises(error, match=match):
        sort_into_folders(paths, labels, tmp_path / "sorted")
    assert not (tmp_path / "sorted").exists()


def test_how_is_refused_and_tables_of_paths_are_taken(photos, tmp_path):
    with pytest.raises(ValueError, match="how='link' should be one of 'copy', 'hard"):
        sort_into_folders(photos, LABELS, tmp_path / "sorted", "link")
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"path": photos, "cluster": LABELS})
    places = sort_into_folders(table["path"], table["cluster"], tmp_path / "sorted")
    assert len(set(places)) == 6


def test_progress(photos, tmp_path, capsys):
    sort_into_folders(photos, LABELS, tmp_path / "sorted", verbose=1)
    assert "Sorting: 6/6 images" in capsys.readouterr().err


def test_the_journal_can_be_read_by_others(photos, tmp_path):
    sort_into_folders(photos[:1], [0], tmp_path / "sorted", "move")
    head, folder, file = map(
        json.loads, (tmp_path / "sorted/sorting.jsonl").read_text().splitlines()
    )
    assert (head["how"], head["levels"], folder) == ("move", 1, {"folder": "00"})
    assert file == {"from": photos[0], "to": ["00", "0.jpg"], "bytes": 7}


def test_names_of_no_cluster_and_images_without_files(photos, tmp_path):
    dest = tmp_path / "sorted"
    with pytest.raises(ValueError, match="a name for the cluster 7, which no label"):
        sort_into_folders(photos, LABELS, dest, names={7: "x"})
    with pytest.raises(TypeError, match="images in an array have no files"):
        sort_into_folders(np.zeros((6, 8, 8)), LABELS, dest)
    assert not dest.exists()

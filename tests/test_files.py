"""Image files become the same images as their pixels."""

import os
import threading
from collections import deque
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image, ImageFile
from sklearn.model_selection import cross_val_predict, cross_val_score
from small_digpro import make
from test_images import CHANNELS_FIRST, N, X, assert_same_fit, pixels, read

from skdeepcluster._input import files as reading
from skdeepcluster._input.files import ImageFiles
from skdeepcluster._input.layouts import as_images
from skdeepcluster.datasets import load_image_folder


@pytest.fixture(scope="module")
def reference():
    """Fitted on (n, C, H, W) uint8."""
    return make().fit(X)


def save(folder, images, suffix=".png", mode=None):
    paths = []
    for i, image in enumerate(images):
        path = folder / f"{i:03}{suffix}"
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture
def paths(tmp_path):
    """X as PNG files."""
    return save(tmp_path, X.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "container", [list, tuple, np.array, "object", "Path", "Series"]
)
def test_files_are_the_same_as_their_pixels(reference, paths, container):
    if container == "object":
        files = np.array(paths, dtype=object)
    elif container == "Path":
        files = [Path(path) for path in paths]
    elif container == "Series":
        files = pytest.importorskip("pandas").Series(paths, index=range(5, N + 5))
    else:
        files = container(paths)
    estimator = make().fit(files)
    assert estimator.image_shape_ == (3, 8, 8)
    assert estimator.n_features_in_ == 192
    assert_same_fit(estimator, reference, files)
    np.testing.assert_array_equal(reference.predict(files[:1]), reference.labels_[:1])


def test_files_after_data_with_feature_names(paths):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.reshape(N, -1)).rename(columns=str)
    estimator = make(image_shape=(3, 8, 8)).fit(frame).fit(paths)
    assert not hasattr(estimator, "feature_names_in_")


def test_files_are_decoded_once(paths, monkeypatch):
    reads = []
    decode = reading.decode

    def counted(path, *others):
        reads.append(path)
        return decode(path, *others)

    monkeypatch.setattr(reading, "decode", counted)
    make(max_epochs=3).fit(paths)
    assert sorted(reads) == paths


def test_headers_of_squares_are_read_without_their_pixels(paths, monkeypatch):
    loaded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda image: loaded.append(1) or load(image)
    )
    files = reading.open_files(make(), paths)
    assert files.shape == (3, 8, 8) and not loaded
    assert files.load()[0].shape == (3, 8, 8) and loaded


@pytest.mark.parametrize("workers", [0, 1])
def test_files_beyond_the_cache_are_read_again_and_again(
    reference, paths, monkeypatch, workers
):
    monkeypatch.setattr(reading, "CACHE_BYTES", 0)
    images, _ = read(paths)
    assert isinstance(images, ImageFiles)
    estimator = make(net_params={"iterator_train__num_workers": workers}).fit(paths)
    assert_same_fit(estimator, reference, paths)


def test_grey_files(tmp_path):
    grey = CHANNELS_FIRST[1][:, 0]
    images, layout = read(save(tmp_path, grey))
    assert layout.shape == (1, 8, 8)
    np.testing.assert_array_equal(pixels(images)[:, 0], grey)


def test_grey_among_colour_is_colour(tmp_path):
    colour = save(tmp_path, X[:5].transpose(0, 2, 3, 1))
    Image.fromarray(X[0, 0]).save(tmp_path / "grey.png")
    images, layout = read([*colour, tmp_path / "grey.png"])
    assert layout.shape == (3, 8, 8)
    np.testing.assert_array_equal(pixels(images)[5], X[:1, 0].repeat(3, axis=0))


def test_colour_files_as_grey(tmp_path):
    files = save(tmp_path, X[:5].transpose(0, 2, 3, 1))
    images, _ = read(files, image_shape=(1, 8, 8))
    expected = [np.asarray(Image.open(file).convert("L")) for file in files]
    np.testing.assert_array_equal(pixels(images)[:, 0], expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_modes_of_files(tmp_path, mode):
    suffix = ".tiff" if mode in ("CMYK", "YCbCr") else ".png"
    files = save(tmp_path, X[:5].transpose(0, 2, 3, 1), suffix, mode)
    if mode == "YCbCr" and Image.open(files[0]).mode != mode:
        pytest.skip("this version of Pillow cannot read the YCbCr that it writes")
    assert Image.open(files[0]).mode == mode
    images, layout = read(files)
    assert layout.shape == (3, 8, 8)
    expected = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    np.testing.assert_array_equal(pixels(images).transpose(0, 2, 3, 1), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_of_files(tmp_path, mode):
    files = save(tmp_path, X[:5, 0], mode=mode)
    assert Image.open(files[0]).mode == mode
    images, layout = read(files)
    assert layout.shape == (1, 8, 8)
    expected = X[:5, 0] if mode != "1" else np.isin(pixels(images)[:, 0], 255) * 255
    np.testing.assert_array_equal(pixels(images)[:, 0], expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_files_keep_their_range(tmp_path, suffix):
    deep = X[:5, 0].astype(np.uint16) * 257
    images, layout = read(save(tmp_path, deep, suffix))
    assert layout.shape == (1, 8, 8)
    assert layout.dtype == images.dtype == np.uint16
    np.testing.assert_array_equal(pixels(images)[:, 0], deep)


def test_alpha_of_files(tmp_path):
    rgba = CHANNELS_FIRST[4].transpose(0, 2, 3, 1)
    images, layout = read(save(tmp_path, rgba), image_shape=(4, 8, 8))
    np.testing.assert_array_equal(pixels(images), CHANNELS_FIRST[4])
    restored = layout.restore(images[0:5][0])  # files have no layout of their own
    np.testing.assert_array_equal(restored, CHANNELS_FIRST[4][:5])
    assert restored.dtype == np.uint8


def test_jpeg_files(tmp_path):
    files = save(tmp_path, X[:5].transpose(0, 2, 3, 1), ".jpg")
    images, _ = read(files)
    expected = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(pixels(images).transpose(0, 2, 3, 1), expected)


def test_files_of_many_sizes_are_resized(tmp_path):
    sizes = [(20, 30), (9, 9), (8, 8), (40, 7)]
    files = []
    for i, (width, height) in enumerate(sizes):
        files.append(tmp_path / f"{i}.png")
        Image.new("RGB", (width, height), (10 * i, 50, 200)).save(files[-1])
    estimator = make()
    images, _ = as_images(estimator, files, image_shape=(3, 8, 6))
    assert estimator.n_features_in_ == 144
    for i, image in enumerate(pixels(images)):
        assert image.shape == (3, 8, 6)
        assert np.unique(image[0]).tolist() == [10 * i]
        assert np.unique(image[1:]).tolist() == [50, 200]


def test_files_are_resized_to_the_shape_of_the_fit(tmp_path, reference, paths):
    large = tmp_path / "large"
    large.mkdir()
    blocks = X[:9].transpose(0, 2, 3, 1).repeat(2, axis=1).repeat(2, axis=2)
    files = save(large, blocks)
    expected = [
        np.asarray(Image.open(file).resize((8, 8), Image.Resampling.BICUBIC))
        for file in files
    ]
    actual = reference.transform(files)
    np.testing.assert_array_equal(actual, reference.transform(np.stack(expected)))


def test_cross_validation_slices_paths(paths, reference):
    estimator = make(max_epochs=1)
    scores = cross_val_score(estimator, paths, cv=2)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, cross_val_score(estimator, X, cv=2))
    labels = cross_val_predict(estimator, paths, cv=2)
    np.testing.assert_array_equal(labels, cross_val_predict(estimator, X, cv=2))


@pytest.mark.parametrize("deep", [False, True])
def test_a_photo_taken_sideways_is_turned(tmp_path, deep):
    pixels = np.zeros((10, 30), np.uint16 if deep else np.uint8)
    pixels[:, :10] = 65535 if deep else 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path in paths:
        Image.fromarray(pixels).save(path, exif=exif)
    files, _ = read(paths)
    assert files.shape == (1, 30, 10)
    upright = files[0:1][0][0, 0]
    assert (upright[:10] == pixels.max()).all() and (upright[10:] == 0).all()


# -- files of every kind become the images that they show ------------------------------


def test_lists_of_pillow_images_are_files(reference, paths):
    images = [Image.open(path) for path in paths]
    estimator = make().fit(images)
    assert estimator.image_shape_ == (3, 8, 8)
    assert_same_fit(estimator, reference, images)
    mixed = [*images[:9], *paths[9:]]
    np.testing.assert_array_equal(reference.predict(mixed), reference.labels_)
    files = [image.convert("CMYK") for image in images]
    as_colours = np.stack([np.asarray(file.convert("RGB")) for file in files])
    assert_same_fit(make().fit(files), make().fit(as_colours), files)


def test_pillow_images_of_many_sizes_are_resized():
    sizes = [(20, 30), (9, 9), (8, 8), (40, 7)]
    files = [Image.new("RGB", size, (10, 50, 200)) for size in sizes]
    images, _ = read(files, image_shape=(3, 8, 6))
    assert pixels(images)[:, :, 0, 0].tolist() == [[10, 50, 200]] * 4


def test_icons_are_their_shapes(tmp_path):
    shapes = X[:, 0]
    black = np.zeros((8, 8, 3), np.uint8)
    files = save(tmp_path, [np.dstack([black, shape]) for shape in shapes])
    estimator = make(image_shape=(1, 8, 8)).fit(files)
    on_white = make().fit(255 - shapes)
    np.testing.assert_array_equal(estimator.labels_, on_white.labels_)
    assert len(estimator.cluster_sizes_) > 1
    np.testing.assert_array_equal(on_white.predict(files), on_white.labels_)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".png", np.uint16),
        (".tiff", np.uint16),
        (".pgm", np.uint16),
        (".tiff", np.float32),
    ],
)
def test_files_of_more_bits_are_as_their_array(tmp_path, suffix, dtype):
    deep = X[:, 0].astype(dtype) * (1 if dtype == np.uint16 else np.float32(3.5))
    files = save(tmp_path, deep, suffix)
    estimator, expected = make().fit(files), make().fit(deep)
    assert estimator.layout_.dtype == dtype
    assert len(expected.cluster_sizes_) > 1
    np.testing.assert_array_equal(estimator.labels_, expected.labels_)
    np.testing.assert_array_equal(estimator.predict(files), estimator.labels_)
    np.testing.assert_array_equal(estimator.transform(deep), expected.transform(deep))
    np.testing.assert_array_equal(expected.predict(files[:5]), expected.labels_[:5])


def test_files_of_8_and_16_bits_together(tmp_path):
    deep = save(tmp_path, X[:32, 0].astype(np.uint16) * 257)
    (tmp_path / "flat").mkdir()
    flat = save(tmp_path / "flat", X[32:, 0])
    images, layout = read([*deep, *flat])
    assert layout.dtype == np.uint16
    np.testing.assert_array_equal(pixels(images)[:, 0], X[:, 0].astype(int) * 257)
    estimator = make().fit([*deep, *flat])
    np.testing.assert_array_equal(estimator.predict(flat), estimator.labels_[32:])
    bytes_only = make().fit([*save(tmp_path, X[:32, 0]), *flat])
    (tmp_path / "again").mkdir()
    again = save(tmp_path / "again", X[:32, 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(bytes_only.predict(again), bytes_only.labels_[:32])


def test_floats_beyond_the_cache_and_alpha(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CACHE_BYTES", 0)
    floats = X[:9, 0].astype(np.float32)
    files = save(tmp_path, floats, ".tiff")
    images, layout = read(files)
    assert isinstance(images, ImageFiles)
    assert layout.dtype == images.dtype == np.float32
    np.testing.assert_array_equal(pixels(images)[:, 0], floats)
    with pytest.raises(ValueError, match="cannot be read from image files: they have"):
        read(files, image_shape=(4, 8, 8))


def test_one_row_of_colours_trains(tmp_path):
    rows = X[:, :, 3:4]
    files = save(tmp_path, rows.transpose(0, 2, 3, 1))
    estimator, expected = make().fit(files), make(image_shape=(3, 1, 8)).fit(rows)
    assert estimator.image_shape_ == (3, 1, 8)
    np.testing.assert_array_equal(estimator.labels_, expected.labels_)
    np.testing.assert_array_equal(estimator.predict(files), estimator.labels_)


# -- containers ------------------------------------------------------------------------


def containers(paths):
    folder = Path(paths[0]).parent
    entries = {entry.path: entry for entry in os.scandir(folder)}
    numbered = dict(enumerate(paths))
    return {
        "bytes": [os.fsencode(path) for path in paths],
        "bytes array": np.array([os.fsencode(path) for path in paths]),
        "PurePath": [PurePath(path) for path in paths],
        "DirEntry": [entries[path] for path in paths],
        "column": np.array(paths)[:, None],
        "generator": (path for path in paths),
        "map": map(Path, paths),
        "values": numbered.values(),
        "keys": dict.fromkeys(paths).keys(),
        "deque": deque(paths),
    }


def test_paths_of_every_kind(paths):
    for kind, files in containers(paths).items():
        images, layout = read(files)
        assert layout.shape == (3, 8, 8), kind
        np.testing.assert_array_equal(pixels(images), X, err_msg=kind)


def test_the_home_of_the_user(paths, monkeypatch):
    home = Path(paths[0]).parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    short = [Path("~", Path(path).name) for path in paths]
    for files in (short, [os.fsencode(path) for path in short]):
        np.testing.assert_array_equal(pixels(read(files)[0]), X)
    (home / "~x.png").write_bytes(Path(paths[0]).read_bytes())
    monkeypatch.chdir(home)  # no user has that name
    np.testing.assert_array_equal(pixels(read(["~x.png", paths[1]])[0]), X[:2])


def test_what_lists_a_folder_is_no_list_of_paths(tmp_path, paths):
    with pytest.raises(
        TypeError, match=r"X is a Bunch, .*load_image_folder\(path\)\.pa"
    ):
        read(load_image_folder(tmp_path))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_paths_in_tables(paths, library):
    frames = pytest.importorskip(library)
    table = frames.DataFrame({"path": paths})
    for files in (table, table["path"], frames.DataFrame({"number": paths})):
        np.testing.assert_array_equal(pixels(read(files)[0]), X)


def test_an_iterator_is_empty_after_it_was_read(paths):
    files = iter(paths)
    read(files)
    with pytest.raises(ValueError, match=r"X is empty .*pass list\(iterator\)"):
        read(files)


@pytest.mark.parametrize(
    ("X", "error", "match"),
    [
        ({"b.png", "a.png"}, TypeError, r"X is a set, .* no order .*Pass sorted\(X\)"),
        (frozenset(["a.png"]), TypeError, "X is a frozenset, which has no order"),
        ({"a": "a.png"}, TypeError, r"X is a dict\. Pass list\(X\.values\(\)\)"),
        (b"a.png", ValueError, r"X is one path, 'a\.png'; a list of"),
        (PurePath("a.png"), ValueError, r"X is one path, 'a\.png'; a list of"),
        (Image.new("L", (8, 8)), ValueError, r"X is one image; .*Pass \[image\]"),
        ([b"\x89PNG\r\n\x1a\n\0\0"], TypeError, r"X\[0\] is bytes that are no path"),
    ],
)
def test_containers_that_cannot_be_read(X, error, match):
    with pytest.raises(error, match=match):
        read(X)


# -- files that cannot be read ---------------------------------------------------------


def test_all_files_that_cannot_be_read_are_named(tmp_path, paths, reference):
    text, cut = tmp_path / "text.png", tmp_path / "cut.png"
    text.write_text("no image")
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:120])
    bad = [text, tmp_path / "gone.png", cut]
    X = [*paths[:3], bad[0], *paths[3:6], *bad[1:]]
    match = (
        r"3 of 9 image files cannot be read:\n"
        r"  '.*text\.png' is not an image that Pillow can read\.\n"
        r"  '.*gone\.png' does not exist\.\n"
        r"  '.*cut\.png' is truncated or damaged \(.*\)\.\n"
        r"Remove them from X, or pass on_error='skip'\."
    )
    for shape in (None, (3, 8, 8)):
        with pytest.raises(ValueError, match=match):
            read(X, image_shape=shape)
    with pytest.raises(ValueError, match=match):
        reference.predict(X)
    _, damage = reading.open_files(make(), X).load()
    # a traceback would keep the image in memory, and a chain of errors does
    assert not any(bad.__traceback__ or bad.__context__ for bad in damage.values())
    many = [*paths[:2], *(f"/not/there/{i}.png" for i in range(25))]
    with pytest.raises(ValueError, match=r"25 of 27 (.|\n)*/9\.png(.|\n)*And 15 more"):
        read(many)


def test_images_of_pillow_are_named_by_their_place(tmp_path, paths):
    image = Image.open(paths[1])
    image.close()
    with pytest.raises(ValueError, match=r"1 of 2 .*:\n  X\[1\] is truncated or dam"):
        read([Image.open(paths[0]), image])


def test_a_pipe_does_not_hang(tmp_path, paths):
    os.mkfifo(tmp_path / "x.png")
    reader = threading.Thread(target=hung_read, args=([*paths, tmp_path / "x.png"],))
    reader.daemon = True
    reader.start()
    reader.join(60)
    assert not reader.is_alive()


def hung_read(files):
    with pytest.raises(ValueError, match=r"x\.png' is not an image but a named pipe"):
        read(files)

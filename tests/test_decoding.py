"""One decoder reads files and images of Pillow: upright, nothing hidden, all bits."""

import os
import socket
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from skdeepcluster._input import decoding
from skdeepcluster._input.decoding import Unreadable, decode, read_header
from skdeepcluster._input.threads import Room

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (8, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)
UINT16, FLOAT32 = np.dtype(np.uint16), np.dtype(np.float32)


def as_file(image, folder, suffix=".png", **options):
    path = folder / f"image{suffix}"
    image.save(path, **options)
    return path


# -- modes -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "HSV", "LAB", "RGBA", "RGBX"])
def test_colour_modes_are_read_as_their_colours(mode):
    image = Image.fromarray(COLOUR).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(image, (3, 8, 6)).transpose(1, 2, 0), expected)
    luminance = np.asarray(image.convert("RGB").convert("L"), int)
    assert abs(decode(image, (1, 8, 6))[0] - luminance).max() <= 2
    assert not read_header(image).grey


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_modes_need_one_channel(mode):
    values = GREY if mode != "I;16" else GREY.astype(np.uint16) * 257
    image = Image.fromarray(values)
    image = image if mode == "I;16" else image.convert(mode)
    expected = GREY if mode != "1" else np.asarray(image) * np.uint8(255)
    assert read_header(image).grey
    np.testing.assert_array_equal(decode(image, (1, 8, 6))[0], expected)
    np.testing.assert_array_equal(decode(image, (3, 8, 6)), [expected] * 3)
    np.testing.assert_array_equal(decode(image, (4, 8, 6))[3], np.full((8, 6), 255))


def with_alpha(kind, colour, alpha):
    """Pixels of one colour under an alpha channel of a kind."""
    alpha = Image.fromarray(alpha)
    if kind == "RGBA":
        image = Image.new("RGB", alpha.size, (colour,) * 3)
        image.putalpha(alpha)
    elif kind == "LA":
        image = Image.new("L", alpha.size, colour)
        image.putalpha(alpha)
    elif kind == "PA":
        palette = Image.new("P", alpha.size, 0)
        palette.putpalette([colour] * 3)
        image = palette.convert("PA")
        image.putalpha(alpha)
    else:  # each place of the palette has the colour, and an alpha of its own
        image = Image.fromarray(np.asarray(alpha)).copy()
        image = Image.frombytes("P", alpha.size, image.tobytes())
        image.putpalette([colour] * 768)
        image.info["transparency"] = bytes(range(256))
    return image


@pytest.mark.parametrize("kind", ["RGBA", "LA", "PA", "palette"])
def test_what_is_transparent_shows_white(tmp_path, kind):
    image = with_alpha(kind, 0, GREY)
    sources = [image]
    if kind != "PA":  # which no format holds
        sources.append(as_file(image, tmp_path))
    for source in sources:
        for channels in (1, 3):
            pixels = decode(source, (channels, 8, 6)).astype(int)
            assert abs(pixels - (255 - GREY.astype(int))).max() <= 1
        alpha = decode(source, (4, 8, 6))
        np.testing.assert_array_equal(alpha[3], GREY)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "PA", "palette"])
def test_colours_under_full_transparency_are_not_seen(kind):
    hidden = [with_alpha(kind, c, np.zeros((8, 6), np.uint8)) for c in (0, 90, 255)]
    for image in hidden:
        assert (decode(image, (3, 8, 6)) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_one_colour_may_be_transparent(tmp_path, mode):
    pixels = np.where(GREY < 128, 30, 200).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    first = (30, 30, 30) if mode == "RGB" else 30
    path = as_file(image, tmp_path, transparency=first)
    np.testing.assert_array_equal(
        decode(path, (1, 8, 6))[0], np.where(GREY < 128, 255, 200)
    )


def test_transparent_value_of_16_bits(tmp_path):
    values = np.array([[1000, 2000], [3000, 1000]], np.uint16)
    path = as_file(Image.fromarray(values), tmp_path, transparency=1000)
    white = [[65535, 2000], [3000, 65535]]
    np.testing.assert_array_equal(decode(path, (1, 2, 2), UINT16)[0], white)


# -- bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bits_are_kept(tmp_path, suffix):
    values = RNG.integers(0, 65536, (8, 6), dtype=np.uint16)
    path = as_file(Image.fromarray(values), tmp_path, suffix)
    assert read_header(path).dtype == UINT16
    for channels in (1, 3):
        pixels = decode(path, (channels, 8, 6), UINT16)
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, [values] * channels)
    alpha = decode(path, (4, 8, 6), UINT16)[3]
    assert (alpha == 65535).all()
    np.testing.assert_array_equal(decode(path, (1, 8, 6))[0], values >> 8)


def test_8_bits_among_16_are_as_bright_as_before():
    pixels = decode(Image.fromarray(COLOUR), (3, 8, 6), UINT16)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), COLOUR.astype(int) * 257)


def test_16_bits_are_resized_as_8_bits_are():
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    small = decode(Image.fromarray(GREY), (1, 4, 4)).astype(int) * 257
    assert abs(decode(deep, (1, 4, 4), UINT16) - small).max() <= 257
    edge = np.repeat(np.repeat([[0, 65535]], 20, 0), 10, 1).astype(np.uint16)
    resized = decode(Image.fromarray(edge), (1, 30, 30), UINT16)  # bicubic overshoots
    assert resized.min() == 0
    assert resized.max() == 65535


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bits_are_read_as_float32(tmp_path, dtype):
    values = (RNG.normal(size=(8, 6)) * 1000).astype(dtype)
    path = as_file(Image.fromarray(values), tmp_path, ".tiff")
    assert read_header(path) == ((6, 8), True, FLOAT32)
    np.testing.assert_array_equal(decode(path, (1, 8, 6), FLOAT32)[0], values)
    with pytest.raises(Unreadable, match="holds 32-bit values, .* Save it with 8 or"):
        decode(path, (1, 8, 6))
    with pytest.raises(Unreadable, match="holds no 32-bit values"):
        decode(Image.fromarray(GREY), (1, 8, 6), FLOAT32)


def test_32_bits_that_are_not_finite(tmp_path):
    path = as_file(Image.fromarray(np.full((4, 4), np.nan, "f4")), tmp_path, ".tiff")
    with pytest.raises(Unreadable, match="holds NaN or infinite values"):
        decode(path, (1, 4, 4), FLOAT32)


# -- orientation -----------------------------------------------------------------------


def exif_block(*entries):
    """An EXIF block of (tag, type, count, four bytes)."""
    body = b"".join(struct.pack("<HHL4s", *entry) for entry in entries)
    head = b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries))
    return head + body + bytes(4)


def orientation(value):
    return (0x0112, 3, 1, struct.pack("<HH", value, 0))


UPRIGHT = {  # what the tag says of where row 0 and column 0 of the pixels belong
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a.T[::-1, ::-1],
    8: lambda a: a.T[::-1],
}


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
@pytest.mark.parametrize("tag", range(10))
def test_images_are_turned_upright(tmp_path, tag, suffix):
    image = Image.fromarray(GREY)
    options = {"lossless": True} if suffix == ".webp" else {}
    path = as_file(
        image, tmp_path, suffix, exif=exif_block(orientation(tag)), **options
    )
    expected = UPRIGHT.get(tag, lambda a: a)(GREY)
    assert read_header(path).size == expected.shape[::-1]
    pixels = decode(path, (1, *expected.shape))[0]
    np.testing.assert_array_equal(pixels, expected)
    if suffix != ".tiff":  # which Pillow turns by itself, some of them wrongly
        pixels = decode(Image.open(path), (1, *expected.shape))[0]
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_files_are_turned_once(tmp_path, compression):
    block = exif_block(orientation(6))
    path = as_file(
        Image.fromarray(GREY), tmp_path, ".tiff", exif=block, compression=compression
    )
    np.testing.assert_array_equal(decode(path, (1, 6, 8))[0], UPRIGHT[6](GREY))


@pytest.mark.parametrize(
    "other",
    [(0x0100, 2, 4, b"abc\0"), (0x0111, 2, 2, b"a\0\0\0"), (0x8769, 4, 1, b"\xff" * 4)],
)
def test_other_tags_may_be_broken(tmp_path, other):
    image = Image.fromarray(GREY)
    path = as_file(image, tmp_path, exif=exif_block(other, orientation(6)))
    np.testing.assert_array_equal(decode(path, (1, 6, 8))[0], UPRIGHT[6](GREY))


def test_a_block_that_cannot_be_read_turns_nothing(tmp_path):
    path = as_file(Image.fromarray(GREY), tmp_path, exif=b"Exif\0\0nonsense")
    assert read_header(path).size == (6, 8)
    np.testing.assert_array_equal(decode(path, (1, 8, 6))[0], GREY)


# -- several images in a file ----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gif", ".tiff", ".png", ".webp"])
def test_the_first_image_of_several(tmp_path, suffix):
    pages = [Image.new("L", (6, 8), value) for value in (10, 200, 90)]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"pages{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    assert Image.open(path).n_frames == 3
    assert np.unique(decode(path, (1, 8, 6))).tolist() == [10]


# -- what is no image ------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    pipe, link, loop = tmp_path / "pipe.png", tmp_path / "link.png", tmp_path / "loop"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nowhere.png")
    loop.symlink_to(loop)
    opened = []
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(args))
    sources = {
        pipe: "is not an image but a named pipe",
        tmp_path: "is not an image but a folder",
        "/dev/zero": "is not an image but a device",
        link: "is a link to a file that does not exist",
        loop: r"cannot be opened \(.*symbolic links",
        "no\0path": r"cannot be opened \(.*null byte",
    }
    for source, match in sources.items():
        with pytest.raises(Unreadable, match=match):
            decode(source, (1, 8, 8))
    assert opened == []


def test_sockets_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.png")
        with pytest.raises(Unreadable, match="is not an image but a socket"):
            decode("x.png", (1, 8, 8))


def test_links_to_files_are_followed(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(as_file(Image.fromarray(GREY), tmp_path))
    np.testing.assert_array_equal(decode(link, (1, 8, 6))[0], GREY)


def test_too_many_pixels_are_called_by_name(tmp_path, monkeypatch):
    path = as_file(Image.fromarray(GREY), tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(Unreadable, match=r"has too many pixels \(.*48 .*20|40 .*\)"):
        decode(path, (1, 8, 6))


def test_no_format_that_starts_a_program(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    assert Image.open(path).format == "EPS"
    with pytest.raises(Unreadable, match="is not an image that Pillow can read"):
        decode(path, (1, 8, 8))


# -- large images ----------------------------------------------------------------------


def smooth(width, height):
    x, y = np.linspace(0, 7, width), np.linspace(0, 5, height)
    waves = np.sin(x[None] * y[:, None]) + (np.add.outer(y, x) % 1 > 0.5)
    return ((waves - waves.min()) / np.ptp(waves) * 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_a_large_image_is_that_of_one_resize(monkeypatch, mode):
    monkeypatch.setattr(decoding, "STRIP", 2**14)  # several strips, a broken last one
    image = Image.fromarray(smooth(1301, 907)).convert(mode)
    expected = image.convert("RGB").resize((16, 12), Image.Resampling.BICUBIC)
    actual = decode(image, (3, 12, 16)).transpose(1, 2, 0)
    difference = abs(actual.astype(int) - np.asarray(expected))
    assert 0 < difference.max() <= 3  # averaged first: not quite the same
    assert difference.mean() < 0.3


@pytest.mark.parametrize("sides", [(255, 191), (500, 100), (16, 12), (3, 2)])
def test_an_image_that_is_not_far_larger_is_resized_at_once(sides):
    image = Image.fromarray(smooth(*sides))
    expected = image.resize((16, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode(image, (1, 12, 16))[0], np.asarray(expected))


def test_a_large_photo_is_decoded_smaller(tmp_path, monkeypatch):
    image = Image.fromarray(smooth(1600, 1200)).convert("RGB")
    path = as_file(image, tmp_path, ".jpg", quality=95)
    whole = Image.open(path).resize((16, 12), Image.Resampling.BICUBIC)
    sizes = []
    loaded = decoding._loaded

    def recorded(image):
        sizes.append(loaded(image).size)
        return image

    monkeypatch.setattr(decoding, "_loaded", recorded)
    pixels = decode(path, (3, 12, 16)).transpose(1, 2, 0).astype(int)
    assert sizes == [(200, 150)]
    assert abs(pixels - np.asarray(whole)).max() <= 3


def test_no_second_image_of_the_size_of_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "STRIP", 2**16)
    path = as_file(Image.new("1", (3000, 3000), 1), tmp_path)
    converted = []
    flat = decoding._flat

    def recorded(image, channels):
        converted.append(image.width * image.height)
        return flat(image, channels)

    monkeypatch.setattr(decoding, "_flat", recorded)
    assert (decode(path, (3, 32, 32)) == 255).all()
    assert max(converted) <= 2**16
    assert sum(converted) == 3000 * 3000


def test_threads_share_a_bounded_room():
    room, most, lock = Room(100), [], threading.Lock()
    inside = 0

    def work(amount):
        nonlocal inside
        for _ in range(20):
            with room.taken(amount):
                with lock:
                    inside += amount
                    most.append(inside)
                with lock:
                    inside -= amount

    threads = [threading.Thread(target=work, args=(a,)) for a in (30, 40, 60, 90, 250)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(most) == 100
    # what is larger than the room has it for itself
    assert all(amount <= 100 or amount == 250 for amount in most)

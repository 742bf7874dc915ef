"""The page of a report: what is on it, as text, and what is refused."""

import base64
import hashlib
import io
import os
import re

import numpy as np
import pytest
import torch
from pages import data_of, read_page
from PIL import Image

from skdeepcluster.report import write_report

N = 30
LABELS = np.repeat([0, 1, 3, -1], [15, 10, 4, 1])
CONFIDENCE = np.linspace(0.31, 1, N)
CONFIDENCE[-1] = np.nan
PLACES = np.random.default_rng(0).normal(size=(N, 2)) + 9 * LABELS[:, None]
ODD = [
    "<b>bold & \"quoted\" 'single'.png",
    "<\\script><img src=x onerror=alert(1)>.png",
    "\u202egpj.evil.png",
    "日本語 مرحبا ß.png",
    "new\nline\ttab.png",
    os.fsdecode(b"bad\xff\xfe.png"),
    "{{ 7 * 7 }}{% raw %}.png",
]
SHOWN = [  # as text
    ODD[0],
    ODD[1],
    "\\u202egpj.evil.png",
    ODD[3],
    "new\\nline\\ttab.png",
    "bad\\xff\\xfe.png",
    ODD[6],
]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def report(tmp_path, X=None, labels=LABELS, **options):
    """Write a report, and read its page."""
    X = noise(N, 8, 8) if X is None else X
    path = write_report(tmp_path / "report.html", X, labels, **options)
    return read_page(path.read_text("utf-8"))


def captions(element):
    return [image["alt"] for image in element.all("img")]


def decoded(image):
    kind, data = image["src"].removeprefix("data:image/").split(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format.lower() == kind
    return np.asarray(picture)


def said(page):
    return [item.text for item in page.one("section", id="findings").all("li")]


@pytest.fixture
def odd_files(tmp_path):
    """Image files with names that are no plain text; 3 x 4 pixels of one colour."""
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [f"{folder}{os.sep}{name}" for name in ODD]
    for level, path in enumerate(paths):
        with open(path, "wb") as file:
            Image.new("RGB", (3, 4), (30 * level, 0, 0)).save(file, "PNG")
    return paths


def test_what_a_page_says(tmp_path):
    page = report(tmp_path, confidence=CONFIDENCE, n_clusters=5, title="<Birds> & co")
    assert page.one("html")["lang"] == "en"
    assert page.one("head").one("title").text == page.one("h1").text == "<Birds> & co"
    facts = {
        fact.one("dt").text: fact.one("dd").text for fact in page.one("dl").all("div")
    }
    shares = np.array([15, 10, 4]) / 29
    balance = -(shares * np.log(shares)).sum() / np.log(5)
    assert facts == {
        "Images": "30",
        "Clusters": "5",
        "Balance of the sizes, 0 to 1": f"{balance:.2f}",
        "Mean confidence": f"{np.nanmean(CONFIDENCE):.2f}",
        "In no cluster": "1",
    }
    sizes = page.one("section", id="sizes")
    rows = sizes.one("ol").all("li")
    assert [row.text for row in rows] == [
        "Cluster 0 15 50.0%",
        "Cluster 1 10 33.3%",
        "Cluster 3 4 13.3%",
        "No cluster 1 3.3%",
    ]
    widths = [float(row.one("rect")["width"]) for row in rows]
    np.testing.assert_allclose(widths, np.array([15, 10, 4, 1]) * 100 / 15, atol=0.01)
    counts = [
        bar.one("title").text for bar in sizes.one("svg", class_="bars").all("rect")
    ]
    known = CONFIDENCE[:-1]
    assert counts[3] == f"0.3 to 0.4: {((known >= 0.3) & (known < 0.4)).sum()}"
    assert said(page)[:2] == [
        "2 of the 5 clusters are empty: 2, 4.",
        "1 image (3.3%) is in no cluster (label -1).",
    ]


def test_the_images_of_a_cluster(tmp_path):
    page = report(tmp_path, confidence=CONFIDENCE, n_examples=4)
    sections = page.all("section", class_="cluster")
    assert [s["id"] for s in sections] == ["c0", "c1", "c3", "c-1"]
    rows = {row.one("h4").text: row for row in sections[0].all("div", class_="row")}
    assert list(rows) == ["Most typical", "Least certain", "At random"]
    typical = [f"row {i}, cluster 0, confidence {CONFIDENCE[i]:.2f}" for i in range(15)]
    assert captions(rows["Most typical"]) == typical[:-5:-1]
    assert captions(rows["Least certain"]) == typical[:4]
    drawn = captions(rows["At random"])
    assert len(set(drawn)) == 4 and set(drawn) <= set(typical)
    few = sections[2].one("div", class_="row")
    assert few.one("h4").text == "All, most typical first"
    assert [image["data-row"] for image in few.all("img")] == ["28", "27", "26", "25"]
    assert "4 images, 13.3%, mean confidence 0.94" in sections[2].text


def test_images_are_as_they_were(tmp_path):
    X = noise(N, 8, 8)
    for image in report(tmp_path, X).all("img", class_="plain"):
        np.testing.assert_array_equal(decoded(image), X[int(image["data-row"])])


@pytest.mark.parametrize(
    "X, expected",
    [
        (np.linspace(0, 1, 4)[:, None, None] * np.ones((4, 5, 5)), [0, 85, 170, 255]),
        (np.linspace(-3, 9, 4)[:, None, None] * np.ones((4, 5, 5)), [0, 85, 170, 255]),
        (
            torch.tensor([0.0, 0.2, 0.4, 1.0]).reshape(4, 1, 1, 1).expand(4, 1, 5, 5),
            [0, 51, 102, 255],
        ),
        ([Image.new("L", (5, 5), v) for v in (0, 9, 99, 255)], [0, 9, 99, 255]),
    ],
    ids=["unit", "any range", "tensor", "Pillow"],
)
def test_any_images_are_shown(tmp_path, X, expected):
    page = report(tmp_path, X, [0, 0, 0, 0])
    levels = [
        np.unique(decoded(image)).tolist()
        for image in page.one("section", id="c0").all("img")
    ]
    assert levels == [[v] for v in expected]


def test_images_with_colour_and_alpha(tmp_path):
    X = np.zeros((2, 12, 40, 4), np.uint8)
    X[0, ..., 0], X[0, ..., 3] = 200, 255  # red; the other is transparent
    page = report(tmp_path, X, [0, 0])
    red, clear = (
        decoded(i).reshape(-1, 3).mean(0)
        for i in page.one("section", id="c0").all("img")
    )
    np.testing.assert_allclose(red, [200, 0, 0], atol=6)
    np.testing.assert_allclose(clear, [255, 255, 255], atol=1)


def test_names_are_text(tmp_path, odd_files):
    places = np.arange(14).reshape(7, 2)
    page = report(tmp_path, odd_files, [0] * 7, positions=places)
    shown = [f"{name}, cluster 0" for name in SHOWN]
    assert captions(page.one("section", id="c0")) == shown
    assert [text for _, _, text, _ in data_of(page)["pictures"]] == shown
    # nothing of a name became an element
    assert not page.all("b", class_="bold") and len(page.all("script")) == 2
    assert all(image["src"].startswith("data:image/") for image in page.all("img")[:-1])


def test_texts_are_text(tmp_path):
    bad = "</title></script><script>x</script> & {{ 1 }}"
    page = report(
        tmp_path,
        names=[bad] * N,
        title=bad,
        warnings=[bad],
        settings={bad: bad, "net": {"width": 4, "bad": {"x": None}}},
        history=[{"epoch": 1, f"loss{bad}": 1.0}],
        positions=PLACES,
    )
    assert page.one("head").one("title").text == said(page)[0] == bad
    table = page.one("section", id="settings").all("table")[0]
    cells = {row.one("th").text: row.one("td").text for row in table.all("tr")}
    assert cells == {bad: bad, "net.width": "4", "net.bad.x": "None"}
    assert page.one("figcaption").one("b").text == f"loss{bad}"
    assert len(page.all("script")) == 2


def test_nothing_is_loaded(tmp_path):
    page = report(tmp_path, positions=PLACES, confidence=CONFIDENCE)
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    assert policy.startswith("default-src 'none'; img-src data:;")
    text = (tmp_path / "report.html").read_text("utf-8")
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        own = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    text = re.sub(r"base64,[\w+/=]*", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not re.search(r"<[^>]*\sstyle=|<[^>]*\son[a-z]+=", text)


def test_a_page_can_be_read_aloud(tmp_path):
    history = [{"epoch": 1, "loss": 1.0}]
    page = report(tmp_path, positions=PLACES, confidence=CONFIDENCE, history=history)
    levels = [int(e.tag[1]) for e in page.all() if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(
        after - before <= 1 for before, after in zip(levels, levels[1:], strict=False)
    )
    ids = [e["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    targets = [e["href"] for e in page.all() if "href" in e.attributes]
    assert targets and {t[1:] for t in targets} <= set(ids)
    for element in page.all():
        if "aria-labelledby" in element.attributes:
            assert element["aria-labelledby"] in ids
        if element.tag == "svg":
            assert element.attributes.get("aria-hidden") or element["aria-label"]
        if element.tag == "button":
            assert element.text or element["aria-label"]


def test_the_map(tmp_path):
    places = np.array([[0.0, 0.0], [2.0, 1.0], [1.0, 0.0], [np.nan, 0.0]])
    page = report(tmp_path, noise(4, 8, 8), [0, 0, 5, -1], positions=places)
    data = data_of(page)
    assert [data["x"], data["y"], data["c"]] == [
        [0, 4000, 2000],
        [2000, 0, 2000],
        [0, 0, 5],
    ]
    assert [row for _, row, _, _ in data["pictures"]] == [0, 1, 2]
    assert [key["data-cluster"] for key in page.all("button", class_="key")] == [
        "0",
        "5",
    ]
    shown = page.one("section", id="map").text
    assert "3 of the 4 images" in shown and "t-SNE" not in shown


def test_the_map_of_an_embedding(tmp_path):
    embedding = np.concatenate([np.zeros((15, 3)), np.full((15, 3), 9.0)])
    embedding += 0.1 * np.random.default_rng(0).normal(size=(30, 3))
    page = report(tmp_path, labels=np.repeat([0, 1], 15), embedding=embedding)
    data = data_of(page)
    places = np.stack([data["x"], data["y"]], axis=1)
    centers = places[:15].mean(0), places[15:].mean(0)
    near = [np.linalg.norm(places - center, axis=1) for center in centers]
    assert ((near[1] < near[0]) == (np.arange(30) >= 15)).all()
    assert "t-SNE" in page.one("section", id="map").text


def test_there_is_no_section_without_content(tmp_path):
    page = report(tmp_path)
    there = {s["id"] for s in page.all("section")}
    assert there.isdisjoint({"map", "outliers", "training"})
    assert {"sizes", "clusters", "duplicates", "settings"} < there
    assert {row.text for row in page.all("h4")} == {"At random", "All"}


def test_pages_are_the_same_again(tmp_path):
    options = {"confidence": CONFIDENCE, "embedding": noise(N, 5) / 255}
    before = np.random.get_state()[1].copy()
    one = write_report(tmp_path / "1.html", noise(N, 8, 8), LABELS, **options)
    two = write_report(tmp_path / "2.html", noise(N, 8, 8), LABELS, **options)
    other = write_report(
        tmp_path / "3.html", noise(N, 8, 8), LABELS, random_state=1, **options
    )
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    np.testing.assert_array_equal(np.random.get_state()[1], before)

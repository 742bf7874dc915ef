"""The page of a report in a browser: what it shows, and what it does."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_report import CONFIDENCE, LABELS, ODD, PLACES, SHOWN, N, noise

from skdeepcluster.report import write_report

pytestmark = pytest.mark.acceptance  # by then, .ci/run has installed one
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --virtual-time-budget=5000 --window-size=800,1000"
).split()
# The page is within another one, of the width of a phone, whose script may look at it,
# while the page keeps its own policy.
AROUND = """<!DOCTYPE html><meta charset="utf-8">
<iframe width="360" height="700" srcdoc="%s"></iframe><pre id="seen"></pre><script>
const frame = document.querySelector("iframe");
const wait = () => new Promise((done) => setTimeout(done, 100));
frame.addEventListener("load", async () => {
  const page = frame.contentDocument, own = frame.contentWindow, seen = {};
  const find = (selector) => page.querySelector(selector);
  const tip = () => find("#tip").hidden ? null : find("#tip-text").textContent;
  await wait();
  const { scrollWidth, clientWidth } = page.documentElement;
  seen.across = scrollWidth - clientWidth;
  seen.title = page.title;
  seen.clusters = page.querySelectorAll(".cluster").length;
  const images = [...page.querySelectorAll(".tiles img")];
  seen.broken = images.filter((image) => !image.naturalWidth).length;
  seen.scripts = page.scripts.length;
  const canvas = find("#canvas"), pen = canvas.getContext("2d");
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  seen.drawn = pixels.data.some((value) => value);
  canvas.scrollIntoView();
  await wait();
  const at = canvas.getBoundingClientRect();
  // look for a point along the diagonals, as a hand would
  const move = (x, y) => canvas.dispatchEvent(new own.PointerEvent("pointermove", {
    clientX: at.left + x, clientY: at.top + y, pointerType: "mouse", bubbles: true }));
  seen.hovered = {};
  for (let x = 4; x < at.width; x += 6) for (let y = 4; y < at.height; y += 6) {
    move(x, y);
    if (tip()) seen.hovered[tip()] = find("#tip-image").src.slice(0, 11);
  }
  canvas.dispatchEvent(new own.PointerEvent("pointerleave", { pointerType: "mouse" }));
  seen.left = tip();
  const press = (target, key) => target.dispatchEvent(
    new own.KeyboardEvent("keydown", { key, bubbles: true }));
  press(canvas, "ArrowRight");
  seen.first = tip();
  press(canvas, "Escape");
  seen.escaped = tip();
  const key = find(".key[data-cluster='3']");
  key.click();
  const pressed = () => [...page.querySelectorAll("[aria-pressed=true]")];
  seen.pressed = pressed().map((key) => key.dataset.cluster);
  press(canvas, "ArrowRight");
  seen.highlighted = tip();
  key.click();
  seen.released = pressed().length;
  const row = find("#c0 .tiles");
  row.querySelector("img").click();
  seen.tapped = tip();
  press(row, "ArrowRight");
  press(row, "ArrowRight");
  seen.second = tip();
  await wait();
  seen.image = find("#tip-image").naturalWidth;
  document.querySelector("#seen").textContent = JSON.stringify(seen);
  console.log("all was seen");
});
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} was found")
    return found


def test_a_page_in_a_browser(browser, tmp_path):
    names = [*ODD, *(f"{i}.png" for i in range(len(ODD), N))]
    path = write_report(
        tmp_path / "report.html",
        noise(N, 8, 8),
        LABELS,
        confidence=CONFIDENCE,
        positions=PLACES,
        names=names,
        title="</script>&amp;",
        n_examples=4,
        history=[{"epoch": i, "loss": 1.0} for i in range(3)],
    )
    around = tmp_path / "around.html"
    around.write_text(AROUND % html.escape(path.read_text("utf-8")), "utf-8")
    run = subprocess.run(
        [
            browser,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            around.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
    )
    console = re.findall(r"CONSOLE[^\"]*\"(.*?)\", source", run.stderr)
    assert console == ["all was seen"], run.stderr  # and no error, of a policy or else
    found = re.search(r'<pre id="seen">(.*?)</pre>', run.stdout, re.S)[1]
    seen = json.loads(html.unescape(found))
    captions = [
        f"{name}, {'no cluster' if k < 0 else f'cluster {k}, confidence {c:.2f}'}"
        for name, k, c in zip(
            [*SHOWN, *names[len(ODD) :]], LABELS, CONFIDENCE, strict=True
        )
    ]
    hovered = seen.pop("hovered")
    assert set(hovered) <= set(captions) and len(hovered) > N / 2
    assert set(hovered.values()) == {"data:image/"}
    third = np.flatnonzero(LABELS == 3)[0]
    assert seen == {
        "across": 0,  # nothing to scroll to the side
        "title": "</script>&amp;",
        "clusters": 4,
        "broken": 0,
        "scripts": 2,
        "drawn": True,
        "left": None,
        "first": captions[0],
        "escaped": None,
        "pressed": ["3"],
        "highlighted": captions[third],
        "released": 0,
        "tapped": captions[14],
        "second": captions[13],
        "image": 8,
    }

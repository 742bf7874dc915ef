"""The snippets of README and guide run as they stand."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skdeepcluster import GCC, datasets
from skdeepcluster.base import Budget
from skdeepcluster.gcc import Generated

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "doc").glob("*.rst"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
DIRECTIVE = re.compile(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", re.M)


def snippets(page):
    pattern = FENCE if page.suffix == ".md" else DIRECTIVE
    return [textwrap.dedent(block) for block in pattern.findall(page.read_text())]


def first(load, n=500):
    """The function, which gives but the first images: the snippets train on few."""

    def loaded(*args, **kwargs):
        X, y = load(*args, **kwargs)
        return X[:n], y[:n]

    return loaded


def test_the_pages_have_snippets():
    assert {p.name for p in PAGES if snippets(p)} >= {"README.md", "start.rst"}


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name
)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in alone.items():  # as torchrun starts one process
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(Budget, "in_epochs", lambda self, steps_per_epoch: 2)
    monkeypatch.setattr(Generated, "auto_steps", (5, 5))
    monkeypatch.setattr(GCC, "auto_samples", (5, 5))
    for name in ("load_digits_images", "make_facet_images"):
        monkeypatch.setattr(datasets, name, first(getattr(datasets, name)))
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(30):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    scope = {}
    for number, snippet in enumerate(snippets(page)):
        exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), scope)
    assert scope  # it defined something


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s#]+)", page.read_text())
    inside = [target for target in targets if "://" not in target]
    assert page.name != "README.md" or len(inside) >= 5
    assert [target for target in inside if not (ROOT / target).is_file()] == []

"""Scripts of the benchmarks on scikit-learn's digits, which need no pack."""

import json

import pytest
import scripts

pytestmark = pytest.mark.acceptance


def record(path, script, *options):
    """Run a script on digits; return its runs."""
    given = ["--packs", path.parent, "--json", path, "--names", "digits"]
    scripts.run(script, *given, *options)
    return json.loads(path.read_text())["runs"]


@pytest.mark.parametrize(
    ("script", "options", "n"),
    [
        ("real_images.py", (), 1797),
        ("long_tail.py", ("--ratios", 10), 743),
        ("granularity.py", ("--clusters", 8), 1797),
    ],
)
def test_a_record_goes_on(tmp_path, script, options, n):
    path, options = tmp_path / "record.json", ("--methods", "k-means", *options)
    (first,) = record(path, script, "--n", 0, "--seeds", 3, *options)
    assert first["n"] == n
    assert first["method"] == "k-means" and 0.4 < first["nmi"] < 0.9
    again, second = record(path, script, "--n", 0, "--seeds", 3, 4, *options)
    assert again == first and second["seed"] == 4


def test_records_of_other_scripts_and_packs_are_refused(tmp_path):
    path, options = tmp_path / "record.json", ("--methods", "k-means", "--seeds", 0)
    record(path, "real_images.py", "--n", 60, *options)
    with pytest.raises(SystemExit, match=r"is of .*real_images.py. Name another"):
        record(path, "long_tail.py", "--ratios", 10, *options)
    with pytest.raises(SystemExit, match="nosuch.npz'. Its folder has: none"):
        record(path, "real_images.py", "--names", "nosuch", *options)

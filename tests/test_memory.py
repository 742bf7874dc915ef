"""Images on the disk are embedded and labelled in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"


def bench(folder, *n, script="bench_memory.py", options=()):
    """Measure in a process of its own: a peak never falls again."""
    path = folder / "record.json"
    arguments = ["--n", *map(str, n), "--folder", str(folder), "--json", str(path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments, *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.acceptance
def test_many_images_on_the_disk(tmp_path):
    small, large = bench(tmp_path, 20_000), bench(tmp_path, 200_000)
    assert large["file_mib"] > 580
    # the whole file was mapped and read: less would mean that nothing was measured
    assert large["file_mib"] < large["peak_mib"] < 1500
    # a copy of the file, even as uint8, would lie beside its touched pages
    assert large["peak_mib"] - large["file_mib"] < large["file_mib"]
    # the memory beside the file grows with the output only
    beside = [r["peak_mib"] - r["file_mib"] for r in (small, large)]
    outputs = 180_000 * (32 * 4 * 2 + 8) / 2**20  # embeddings, twice, and labels
    assert beside[1] - beside[0] < outputs + 60
    assert small["environment"]["versions"].keys() >= {"skdeepcluster", "torch"}
    assert small["arguments"]["n"] == 20_000
    assert small["arguments"]["seed"] == 0


@pytest.mark.acceptance
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_fit_of_many_images_on_the_disk(tmp_path):
    options = ["--methods", "SCL"]  # which remembers most of each image
    record = bench(tmp_path, 5000, 40_000, script="bench_large.py", options=options)
    small, large = record["runs"]
    for call in ("fit", "predict", "transform"):
        # of an image some embeddings and memories of 64 floats, but not its pixels
        more = (large[f"{call}_mib"] - small[f"{call}_mib"]) * 2**20
        assert more < 35_000 * (5 * 64 * 4) + 40 * 2**20  # pixels: 103 MiB
    parts = ("steps", "embedding", "clustering", "rest")
    spent = sum(large[f"{name}_cpu_seconds"] for name in parts)
    assert spent == pytest.approx(large["epoch_cpu_seconds"])
    assert "folder" not in record["parts"][0]["arguments"]

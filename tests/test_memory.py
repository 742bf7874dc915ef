"""Images on the disk are embedded and labelled in little memory."""

import json
import sys

import pytest
import scripts


def bench(folder, script, *n, options=()):
    path = folder / "record.json"
    arguments = ["--n", *map(str, n), "--folder", str(folder), "--json", str(path)]
    scripts.run(script, *arguments, *options)
    return json.loads(path.read_text())


@pytest.mark.acceptance
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_fit_of_many_images_on_the_disk(tmp_path):
    options = ["--methods", "SCL"]  # which remembers most of each image
    record = bench(tmp_path, "bench_large.py", 5000, 40_000, options=options)
    small, large = record["runs"]
    for call in ("fit", "predict", "transform"):
        # of an image some embeddings and memories of 64 floats, but not its pixels
        more = (large[f"{call}_mib"] - small[f"{call}_mib"]) * 2**20
        assert more < 35_000 * (5 * 64 * 4) + 40 * 2**20  # pixels: 103 MiB
        # less than the embedding would mean that nothing was measured
        assert large[f"{call}_mib"] > 40_000 * 64 * 4 / 2**20
    parts = ("steps", "embedding", "clustering", "rest")
    spent = sum(large[f"{name}_cpu_seconds"] for name in parts)
    assert spent == pytest.approx(large["epoch_cpu_seconds"])
    (part,) = record["parts"]
    asked = {"n": [5000, 40_000], "methods": ["SCL"], "epochs": 1, "seed": 0}
    assert part["arguments"] == asked
    assert part["environment"]["versions"].keys() >= {"skdeepcluster", "torch"}

"""The script that measures what a GPU gives, at tiny size on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scripts

SCRIPT = scripts.SCRIPTS / "bench_gpu.py"


def bench(path, *options):
    """Run the script, and return what it wrote."""
    scripts.run("bench_gpu.py", "--device", "cpu", "--json", path, *options)
    return json.loads(Path(path).read_text())


@pytest.mark.acceptance
def test_speed(tmp_path):
    tiny = ["--side", "8", "--n", "24", "--batch-size", "8", "--epochs", "1"]
    tiny += ["--workers", "0", "--matrix", "64", "--backbones", "resnet18"]
    rows = ["fit", "fit, float32", "fit, not channels-last", "bare", "per image"]
    path = str(tmp_path / "gpu.json")
    first = bench(path, *tiny, "--minutes", "0", "--rows", *rows)
    assert [run["row"] for run in first["runs"]] == ["fit"]  # then the time was over
    record = bench(path, *tiny, "--rows", *rows)
    assert [run["row"] for run in record["runs"]] == rows
    assert record["runs"][0] == first["runs"][0]
    fits = record["runs"][:3]
    assert all(run["images_per_second"] > 0 for run in record["runs"])
    assert not fits[1]["bfloat16"]
    for run in fits:
        assert run["steps_images_per_second"] > run["images_per_second"]
        # forward and backward passes of two views of 8 x 8 pixels, at full resolution
        assert run["flops_of_an_image"] == pytest.approx(2 * 3 * 0.07e9, rel=0.05)
        share = run["steps_images_per_second"] * run["flops_of_an_image"] / run["rate"]
        assert run["share_of_rate"] == pytest.approx(share)


@pytest.mark.acceptance
def test_accuracy_goes_on_where_it_ended(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 90, (60, 32, 32, 3)) + 80 * np.eye(3, dtype=int)[
        labels
    ].reshape(60, 1, 1, 3)
    np.savez(tmp_path / "cifar10_train.npz", images=images.astype("u1"), labels=labels)
    options = ["--packs", str(tmp_path), "--checkpoint", str(tmp_path / "training")]
    options += ["--backbone", "conv", "--max-epochs", "3", "--checkpoint-every", "0"]
    path = str(tmp_path / "cifar10.json")
    (run,) = bench(path, *options, "--minutes", "0")["runs"]
    assert [point["epoch"] for point in run["points"]] == [1]
    assert run["final"]["epochs"] == 1
    record = bench(path, *options, "--minutes", "5")
    (after,) = record["runs"]
    assert [point["epoch"] for point in after["points"]] == [1, 2, 3]
    assert after["points"][0] == run["points"][0]
    assert after["final"]["epochs"] == after["epochs_planned"] == 3
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.acceptance
def test_a_pack_that_is_missing_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--packs", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert f"'{tmp_path / 'cifar10_train.npz'}'" in done.stderr.splitlines()[-1]

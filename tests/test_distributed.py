"""One training in two processes: gloo, on the CPU, with the variables of torchrun."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest

SCRIPT = Path(processes.__file__)
METHODS = list(processes.FIT)


def start(scenario, folder):
    """Run a scenario in two processes; what each of them told, and how it ended."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"PYTHONPATH": os.pathsep.join(["", *sys.path]), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, scenario, folder],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    codes = [process.returncode for process in running]
    told = [folder / f"{rank}.json" for rank in (0, 1)]
    assert all(path.exists() for path in told), errors
    return [json.loads(path.read_text()) for path in told], codes, errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def told(folder):
    """What two processes told, of which the second one was killed at last."""
    told, codes, errors = start("ends", folder)
    assert codes == [0, -9], errors
    return told


@pytest.fixture(scope="module")
def again(told, folder):
    """What two processes told that went on where those were."""
    again, codes, errors = start("goes_on", folder)
    assert codes == [0, 0], errors
    return again


@pytest.fixture(scope="module")
def alone():
    return processes.alike()


# -- the same as in one process --------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one_does(told, alone, name):
    # in float64: Adam makes whole steps of gradients that are nothing but rounding
    one = alone[f"{name} float64"]
    for found in (each[f"{name} float64"] for each in told):
        assert len(found["losses"]) >= 20
        np.testing.assert_allclose(found["losses"], one["losses"], atol=1e-6)
        np.testing.assert_allclose(found["running"], one["running"], 1e-4, 1e-6)
        assert found["labels"] == one["labels"]


@pytest.mark.parametrize("name", ["DigPro", "SCL", "StatDEC"])
def test_losses_are_those_of_one_process_in_float32(told, alone, name):
    one = alone[f"{name} float32"]
    for found in (each[f"{name} float32"] for each in told):
        assert len(found["losses"]) == 20
        np.testing.assert_allclose(found["losses"], one["losses"], rtol=0, atol=1e-5)


def test_both_processes_have_the_same(told):
    for name in ("losses", "labels", "running", "seconds"):
        for fit in (fit for fit in told[0] if "float" in fit):
            assert told[0][fit][name] == told[1][fit][name]


def test_each_process_reads_a_part_of_what_is_on_a_disk(told):
    for each, part in zip(told, (6, 7), strict=True):
        assert each["stored"]["losses"] == each["SCL float32"]["losses"]
        assert each["stored"]["parts"] == [part] * 20


def test_networks_that_differ_and_draw_are_made_the_same(told):
    first, second = (each["dropout"] for each in told)
    assert first["losses"] == second["losses"]
    assert first["labels"] == second["labels"]
    assert second["warnings"] == 0  # the first process warns


def test_gradients_are_those_of_all_rows(told):
    wanted = processes.gradients()
    for found in (each["gradients"] for each in told):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


# -- how they end ----------------------------------------------------------------------


def test_processes_that_fit_other_things_are_told_so(told):
    for each in told:
        assert "differ in n_clusters: 3 and 4" in each["other"]["error"]
        assert "differ in the images, or their order" in each["shuffled"]["error"]


def test_an_error_ends_all_with_its_message(told):
    first, second = (each["error"] for each in told)
    assert second["error"] == "ValueError: no more paper"
    assert first["error"].startswith("RuntimeError: Training in 2 processes was ended")
    assert "process 1 raised ValueError: no more paper. Start" in first["error"]
    assert first["seconds"] < 30


def test_a_process_that_does_not_answer_ends_all(told):
    first = told[0]["slow"]
    assert "did not answer for 2 seconds" in first["error"]
    assert first["seconds"] < 30


def test_the_kill_of_one_is_one_clear_error(told):
    first = told[0]["killed"]
    assert "process 1 was killed" in first["error"]
    assert "with checkpoint='folder' they go on" in first["error"]
    assert first["seconds"] < 60


def test_the_checkpoint_goes_on_to_the_same_labels(told, again):
    for found in (each["resumed"] for each in again):
        assert found["labels"] == told[0]["whole"]["labels"]
        assert len(found["losses"]) == 20  # of 40


def test_a_signal_to_one_ends_all_of_them_fitted(again):
    first, second = (each["signal"] for each in again)
    assert first["error"] == second["error"] == "SystemExit: 143"
    assert first["labels"] == second["labels"]
    assert len(first["labels"]) == processes.N

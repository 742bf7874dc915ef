"""One training in two processes: gloo, on the CPU, with the variables of torchrun."""

import json
import os
import socket
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import processes
import pytest
import torch.distributed as dist
from PIL import Image

from skdeepcluster._engine import distributed, waiting
from skdeepcluster._engine.distributed import Group

SCRIPT = Path(processes.__file__)
METHODS = list(processes.FIT)


@pytest.fixture(scope="module")
def start():
    """Run a scenario in two processes; what each of them told, and how it ended."""
    own = {"PYTHONPATH": os.pathsep.join(["", *sys.path]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, SCRIPT],
        env=os.environ | own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forking:

        def start(scenario, folder):
            folder.mkdir(exist_ok=True)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            print(json.dumps([scenario, str(folder), group]), file=forking.stdin)
            forking.stdin.flush()
            codes = json.loads(forking.stdout.readline())
            errors = [(folder / f"{rank}.txt").read_text() for rank in (0, 1)]
            told = [folder / f"{rank}.json" for rank in (0, 1)]
            assert all(path.exists() for path in told), (codes, errors)
            return [json.loads(path.read_text()) for path in told], codes, errors

        yield start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def told(start, folder):
    """What two processes told, of which the second one was killed at last."""
    told, codes, errors = start("ends", folder)
    assert codes == [0, -9], errors
    return told


@pytest.fixture(scope="module")
def again(start, told, folder):
    """What two processes told that went on where those were."""
    (folder / "photos").mkdir()
    for number, image in enumerate(processes.X[:30]):
        Image.fromarray(image[0]).save(folder / "photos" / f"{number:02}.png")
    again, codes, errors = start("goes_on", folder)
    assert codes == [0, 0], errors
    return again


@pytest.fixture(scope="module")
def absent(start, folder):
    """What two processes told that did not come to the same meetings."""
    told, codes, errors = start("absent", folder / "absent")
    assert codes == [0, 0], errors
    return told


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


def test_an_encoder_that_fits_encodes_a_part_in_each_process(told, tmp_path):
    one, (first, second) = processes.encoded(tmp_path), (t["encoded"] for t in told)
    assert one["own"] == [9, 0] and one["skipped"] == [[3], [3]]
    assert [sum(own) for own in zip(first["own"], second["own"], strict=True)] == [9, 0]
    assert min(first["own"][0], second["own"][0]) == 4  # of 5, one cannot be read
    for each in (first, second):
        np.testing.assert_allclose(each["features"], one["features"], rtol=1e-6)
        assert each["skipped"] == one["skipped"]
    np.testing.assert_allclose(first["alone"], one["alone"], rtol=1e-6)
    assert (first["warnings"], second["warnings"]) == (1, 0)
    assert "'" in one["refused"] and "3.png" in one["refused"]
    assert first["refused"].startswith("ValueError: ")
    assert "0-3.png" in first["refused"]
    assert "process 0 raised ValueError" in second["refused"]


def test_processes_put_a_list_together_as_the_guide_shows(again):
    first, second = (each["listed"] for each in again)
    names = [f"{number:02}.png" for number in range(30)]
    assert (first["own"], second["own"]) == (names[::2], names[1::2])
    assert first["paths"] == second["paths"] == names
    assert first["labels"] == second["labels"]
    assert len(first["labels"]) == 30


def test_features_of_a_frozen_network_are_the_same_in_both(told):
    first, second = (each["frozen"] for each in told)
    assert len(set(first["labels"])) > 1
    assert first["labels"] == second["labels"]


def test_a_process_that_is_slow_in_all_is_not_lost(told):
    for each in told:
        assert each["uneven"] == [20, 4]


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
    begin = "ValueError: Processes 0 and 1 train together, but differ in "
    images = "the images, or their order: rows "
    for each in told:
        for name, differ in {
            "other": "n_clusters: 3 and 4. Call fit in all of them",
            "shuffled": f"{images}0, 8, 16, 24, 32, ",
            "one row": f"{images}0, 16 of 17 that are compared. Call fit",
            "other net": "net_params: {'optimizer__weight_decay': 0.0} and {'optim",
            "other views": "augment: 'weak' and make_images. Call fit",
            "other class": "the class: ImageEncoder and SCL. Call fit",
        }.items():
            assert each[name]["error"].startswith(begin + differ)
            assert each[name]["seconds"] < 5


def test_numbers_of_numpy_are_no_other_parameters(told):
    first, second = (each["equal"] for each in told)
    assert first["labels"] == second["labels"]


def test_a_parameter_error_in_one_is_told_to_all(told):
    first, second = (each["invalid"] for each in told)
    assert second["error"].startswith("InvalidParameterError: The 'n_clusters' param")
    assert "process 1 raised InvalidParameterError: The 'n_clu" in first["error"]
    assert first["seconds"] < 5


def test_a_process_that_reads_slowly_is_waited_for(told):
    first, second = (each["slow to read"] for each in told)
    assert first["labels"] == second["labels"]
    (said,) = (text for text in first["warnings"] if "waits" in text)
    assert said.startswith("Process 0 waits for process 1 to call fit and to read X")
    assert not any("waits" in text for text in second["warnings"])


def test_an_error_ends_all_with_its_message(told):
    first, second = (each["error"] for each in told)
    assert second["error"] == "ValueError: no more paper"
    assert first["error"].startswith("RuntimeError: Training in 2 processes was ended")
    assert "process 1 raised ValueError: no more paper. Start" in first["error"]
    assert first["seconds"] < 30


def test_an_error_that_only_sounds_like_a_lost_process_is_told_as_it_is(told):
    first, second = (each["own"]["error"] for each in told)
    assert second.startswith("RuntimeError: connection to the database timed out")
    assert "process 1 raised RuntimeError: connection to the database" in first


@pytest.mark.parametrize(
    "error",
    [
        dist.DistNetworkError("Broken pipe"),
        dist.DistBackendError("NCCL error: remote process exited"),
        RuntimeError(
            "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by "
            "peer [127.0.0.1]:2222"
        ),
        RuntimeError(
            "[D:\\pytorch\\gloo\\transport\\uv\\unbound_buffer.cc:84] Timed out waiting"
        ),
    ],
)
def test_what_torch_and_gloo_say_of_a_lost_process_is_not_told_as_its_error(error):
    said = leave(error)
    assert "process 1 was killed, or did not answer" in str(said)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader timed out after 5 seconds"),
        RuntimeError("no socket left for the connection to igloo/storage"),
        ConnectionError("Connection reset by peer"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_raised_as_they_are(error):
    assert leave(error) is None


def leave(error):
    """What process 0 of two raises in place of an error, with process 1 gone."""
    group = group_of_one_left()
    group.board.add("ended", 1)
    return group.leave(error)


def group_of_one_left():
    """Two processes as seen from the first one, which is alone."""
    group = object.__new__(Group)
    group.rank, group.size = 0, 2
    group.patience, group._exchanges = distributed.TIMEOUT, 0
    group.processes = dist.GroupMember.NON_GROUP_MEMBER
    group.board = dist.HashStore()
    return group


def test_a_process_that_does_not_answer_ends_all(told):
    first = told[0]["slow"]
    assert "did not answer for 2 seconds" in first["error"]
    assert first["seconds"] < 30


def test_the_kill_of_one_is_one_clear_error(told):
    first = told[0]["killed"]
    assert "process 1 was killed" in first["error"]
    assert "with checkpoint='folder' goes on from its last save" in first["error"]
    assert first["seconds"] < 60


def test_a_process_that_never_calls_fit_is_named(absent):
    for name in ("alone", "one after the other"):
        found = absent[0][name]
        assert "2 processes did not begin: process 1 was not started" in found["error"]
        assert found["seconds"] < 20
    late = absent[1]["one after the other"]  # after the time was up
    assert late["error"] == absent[0]["one after the other"]["error"]
    assert late["seconds"] < 1


def test_the_place_is_named_at_which_process_0_is_not(absent):
    found = absent[1]["nobody"]
    assert "They meet at process 0, by MASTER_ADDR:MASTER_PORT=127." in found["error"]
    assert found["seconds"] < 30


def test_a_process_without_the_variable_fits_by_itself(absent):
    for each in absent:
        assert len(each["by itself"]["labels"]) == processes.N


def test_the_wait_before_the_training_ends_as_well(monkeypatch):
    monkeypatch.setattr(waiting, "MEETING", timedelta(seconds=0.1))
    group = group_of_one_left()
    with pytest.raises(dist.DistError) as error:
        group.exchange({"n_clusters": "3"})
    said = str(group.leave(error.value))
    assert "process 1 was killed, or did not answer for 0.1 seconds" in said


def test_a_process_that_comes_too_late_is_told_so(monkeypatch):
    monkeypatch.setattr(waiting, "MEETING", timedelta(seconds=0.1))
    first, second = group_of_one_left(), group_of_one_left()
    second.rank, second.board = 1, first.board
    with pytest.raises(dist.DistError):
        first.exchange({})
    with pytest.raises(RuntimeError, match=r"Process 1 read X.* 0\.1 seconds longer"):
        second.exchange({})


def test_the_first_of_those_that_wait_says_so_once(monkeypatch):
    monkeypatch.setattr(waiting, "MEETING", timedelta(seconds=0.2))
    monkeypatch.setattr(waiting, "NOTICE", timedelta(0))
    group, board = group_of_one_left(), dist.HashStore()
    group.rank = 1
    for there in (1, 3):
        board.set(f"here/{there}", "")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        token = distributed._current.set(group)
        try:
            for rank in (1, 3):
                assert waiting.absent(board, "here", rank, 4, "end") == [0, 2]
        finally:
            distributed._current.reset(token)
    (said,) = (str(w.message) for w in seen)
    assert said.startswith("Process 1 waits for process 0, 2 to call fit")


def test_a_group_of_the_callers_is_used_and_stays(absent):
    for each in absent:
        assert len(each["both"]["labels"]) == processes.N
        assert each["size"] == 2
    assert absent[0]["both"]["labels"] == absent[1]["both"]["labels"]


def test_the_checkpoint_goes_on_to_the_same_labels(told, again):
    for found in (each["resumed"] for each in again):
        assert found["labels"] == told[0]["whole"]["labels"]
        assert len(found["losses"]) == 20  # of 40


def test_a_signal_to_one_ends_all_of_them_fitted(again):
    first, second = (each["signal"] for each in again)
    assert first["error"] == second["error"] == "SystemExit: 143"
    assert first["labels"] == second["labels"]
    assert len(first["labels"]) == processes.N

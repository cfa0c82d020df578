"""The words that choose where jobs run, and jobs as values."""

import os
import pickle

import pytest
import ray

from dermaffinity.cluster import connected
from dermaffinity.config import read_config
from dermaffinity.errors import ConfigError
from dermaffinity.experiments import launchers
from dermaffinity.experiments.job import Job
from dermaffinity.experiments.launchers import launcher_of
from dermaffinity.experiments.network_job import NetworkJob


def test_a_job_survives_the_way_to_another_process(tiny_config, tmp_path):
    job = Job.of(read_config(tiny_config), 0, 1, tmp_path)
    copy = pickle.loads(pickle.dumps(job))
    assert (type(copy), copy.config, copy.files) == (NetworkJob, job.config, job.files)


def test_jobs_that_learn_from_features_share_no_decoded_images_with_others(tiny_config, tmp_path):
    trained, frozen = (
        Job.of(read_config(tiny_config, [f"training.freeze_backbone={frozen}"]), 0, 0, tmp_path)
        for frozen in ("false", "true")
    )
    assert trained.shared != frozen.shared


def test_a_launcher_whose_library_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ray is not installed here; pip install 'dermaffinity\[cluster\]'"):
        launcher_of("ray")
    with pytest.raises(ConfigError, match=r"submitit is not installed here; pip install 'dermaffinity\[slurm\]'"):
        launcher_of("slurm")


def test_torchrun_starts_its_own_processes(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ConfigError, match="torchrun has started the processes already"):
        launcher_of("ray")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "nothing answers there (Connection refused). 'ray status'"),
        ("ray://127.0.0.1:10001", "write HOST:PORT, such as 10.0.0.1:6379, or auto"),
        ("localhost", "write HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer_is_refused_at_once(address, message):
    with pytest.raises(ConfigError) as error:
        launcher_of("ray", address)
    assert f"--address {address}: {message}" in str(error.value)


def test_an_address_where_something_else_answers_is_told_in_one_sentence(monkeypatch, capfd):
    def tries(**options):
        os.write(2, b"gcs_client.cc:210: Failed to get cluster ID\n" * 20)
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr("dermaffinity.cluster.check_answers", lambda address: None)
    monkeypatch.setattr(ray, "init", tries)
    message = r"^--address db:80: no Ray cluster .* \(Failed to connect to Ray cluster\)"
    with pytest.raises(ConfigError, match=message), connected("db:80"):
        pass
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"

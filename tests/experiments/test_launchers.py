"""Jobs side by side: the same numbers, and what happens to one does not happen to the others."""

import pickle
import shutil
import signal

from dermaffinity.config import read_config
from dermaffinity.experiments.job import Job
from dermaffinity.experiments.network_job import NetworkJob
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

FOLDS = 3
LOCAL = ("--launcher", "local")


def predictions(folder, fold):
    return (folder / f"runs/tiny/fold-{fold}_seed-0/predictions.csv").read_bytes()


def test_a_failing_job_does_not_stop_the_others_and_all_give_the_same_numbers_as_inline(
    commands, fresh_folder, uninterrupted, tiny_config
):
    folder = fresh_folder("local")
    damaged = folder / "runs/tiny/fold-1_seed-0/checkpoint.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"PK\x03\x04 was cut off here")
    failed = commands.run("crossval", str(tiny_config), *LOCAL, "--resume", folder=folder)
    assert failed.code == 1
    *_, summary, problem = failed.stderr.splitlines()
    assert summary == "dermaffinity: 1 of 3 jobs failed; the others are finished and kept"
    assert problem.startswith("  - tiny fold 1 seed 0: ")
    assert "checkpoint.pt: not a readable checkpoint" in problem
    assert problem.endswith("Delete it to train this fold anew")
    for fold in (0, 2):
        assert predictions(folder, fold) == predictions(uninterrupted, fold)

    damaged.unlink()
    finished = commands.run("crossval", str(tiny_config), *LOCAL, "--resume", folder=folder)
    assert finished.code == 0, finished.stderr
    assert finished.stderr.count("finished") == FOLDS
    summary = "runs/tiny/out_of_fold_summary.csv"
    assert (folder / summary).read_bytes() == (uninterrupted / summary).read_bytes()


def test_a_job_whose_process_is_killed_is_listed(commands, fresh_folder, tiny_config):
    folder = fresh_folder("out_of_memory")
    moment = ("dermaffinity.training.trainer.set_learning_rate", 1, "before", int(signal.SIGKILL))
    failed = commands.run("crossval", str(tiny_config), *LOCAL, folder=folder, signals=[moment])
    assert failed.code == 1
    assert "dermaffinity: 3 of 3 jobs failed\n" in failed.stderr
    for fold in range(FOLDS):
        assert f"  - tiny fold {fold} seed 0: its process ended with exit code -9" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_ctrl_c_ends_the_jobs_processes_and_their_tracking_runs(commands, fresh_folder, tiny_config):
    folder = fresh_folder("stopped_local")
    moment = ("dermaffinity.training.trainer.set_learning_rate", 4, "before", -int(signal.SIGINT))
    stopped = commands.run("crossval", str(tiny_config), *LOCAL, folder=folder, signals=[moment])
    assert stopped.code == 130, stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("dermaffinity: Interrupted. Finished jobs are kept")
    assert "Traceback" not in stopped.stderr
    tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = tracker.call(lambda client: client.search_experiments(filter_string="name = 'phantom-5'"))
    runs = tracker.call(lambda client: client.search_runs([experiment.experiment_id]))
    assert {run.info.run_name: run.info.status for run in runs} == {"tiny": "KILLED", "tiny fold-0 seed-0": "KILLED"}
    shutil.rmtree(folder)  # nobody writes here any more


def test_a_job_survives_the_way_to_another_process(tiny_config, tmp_path):
    job = Job.of(read_config(tiny_config), 0, 1, tmp_path)
    copy = pickle.loads(pickle.dumps(job))
    assert (type(copy), copy.config, copy.files) == (NetworkJob, job.config, job.files)

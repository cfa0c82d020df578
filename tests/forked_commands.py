"""A process that has imported everything and forks for each command: starting anew would take ten seconds each.

Reads a JSON line {"start": {...}} or {"wait": pid} and answers with a line: the process id, or the exit status.
"""

import importlib
import json
import os
import signal
import sys
import time


def main() -> None:
    # Among them what the package itself imports late.
    for module in (
        "dermaffinity.cli",
        "dermaffinity.data.augmentation",
        "dermaffinity.data.mixing",
        "dermaffinity.experiments.benchmark",
        "dermaffinity.experiments.evaluate",
        "dermaffinity.experiments.network_job",
        "dermaffinity.experiments.estimator_job",
        "dermaffinity.experiments.report.write",
        "dermaffinity.inference.batch",
        "dermaffinity.training.calibration",
        "matplotlib.figure",
        "mlflow",
        "mlflow.store.tracking.sqlalchemy_store",
        "sklearn.metrics",
        "albumentations",
    ):
        importlib.import_module(module)
    warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            pid = os.fork()
            if pid == 0:
                run(**request["start"])
            print(pid, flush=True)


def warm_up() -> None:
    """Fills the caches of fonts."""
    import numpy as np

    from dermaffinity.report.figures import confusion_figure

    confusion_figure(np.eye(5, dtype=int), list("abcde"), "title").savefig(os.devnull, format="png")


def run(argv: list[str], folder: str, environment: dict[str, str], signals: list[tuple[str, int, str, int]]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    # A shell without job control starts what runs in the background deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{name}-{os.getpid()}.txt", os.O_CREAT | os.O_WRONLY, 0o600)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for target, call, when, number in signals:
        send_at(target, call, when, number)
    # Every epoch is saved, so that one that is interrupted is found.
    importlib.import_module("dermaffinity.training.trainer").CHECKPOINT_SECONDS = 0.0
    importlib.import_module("dermaffinity.report.figures")._layout = lambda: None  # as in conftest.py
    sys.argv = ["dermaffinity", *argv]
    from dermaffinity.cli import main as dermaffinity

    status = 0
    try:
        dermaffinity()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def send_at(target: str, call: int, when: str, number: int) -> None:
    """Sends a signal, a negative one to the parent process, before or after the ``call``-th call of a function."""
    path, _, name = target.rpartition(".")
    module = importlib.import_module(path)
    function = getattr(module, name)
    calls = 0

    def send():
        if number > 0:
            os.kill(os.getpid(), number)
        else:
            os.kill(os.getppid(), -number)
            time.sleep(60)

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            send()
        result = function(*args, **kwargs)
        if calls == call and when == "after":
            send()
        return result

    setattr(module, name, counted)


if __name__ == "__main__":
    main()

"""Training never imitates bfloat16 unasked, and an experiment keeps the arithmetic it began with."""

import os
import subprocess
import sys
from io import StringIO

import pytest
import torch
from mlflow.tracking import MlflowClient
from rich.console import Console

from dermaffinity.config import read_config
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.tracking.mlflow_tracker import MlflowTracker
from dermaffinity.training import precision


def on(monkeypatch, hardware: bool) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: hardware)


@pytest.mark.parametrize(("hardware", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_takes_bfloat16_only_where_the_hardware_has_it(tiny_config, monkeypatch, hardware, chosen):
    on(monkeypatch, hardware)
    assert precision.with_precision(read_config(tiny_config)).training.precision == chosen


@pytest.mark.parametrize("asked", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_precision_that_a_config_names_stays(tiny_config, monkeypatch, asked):
    on(monkeypatch, False)
    config = read_config(tiny_config, [f"training.precision={asked}"])
    assert precision.with_precision(config, recorded="32-true") is config


@pytest.mark.parametrize(
    ("flags", "computed", "expected"),
    [
        ({"avx2": True}, True, False),
        ({"avx2": True, "avx512_bf16": True}, True, True),
        ({"amx_bf16": True}, True, True),
        ({"bf16": True}, True, True),  # Arm
        ({"avx512_bf16": True}, False, False),  # told to leave it, by ONEDNN_MAX_CPU_ISA
    ],
)
def test_a_processor_has_bfloat16_when_it_says_so_and_may_use_it(monkeypatch, flags, computed, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: computed)
    assert precision.has_bfloat16() is expected


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_counts_only_without_emulation(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert precision.has_bfloat16() is native


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU decides there")
def test_a_process_that_is_limited_to_avx2_has_no_bfloat16():
    code = "from dermaffinity.training.precision import has_bfloat16; print(has_bfloat16())"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "False\n"


def test_an_experiment_keeps_and_tracks_the_precision_that_it_began_with(tiny_config, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def run(*overrides, **options):
        config, console = read_config(tiny_config, ["training.epochs=1", *overrides]), Console(file=StringIO())
        plan = Plan(runs=tmp_path, tracker=MlflowTracker(uri), folds=[0], console=console, **options)
        (experiment,) = run_experiments([config], plan)
        return experiment, console.file.getvalue()

    on(monkeypatch, False)
    begun, said = run()
    assert begun.record.config["training"]["precision"] == "32-true"
    assert "bf16" not in said
    client = MlflowClient(uri)
    everywhere = [found.experiment_id for found in client.search_experiments()]
    (tracked,) = client.search_runs(everywhere, "tags.role = 'parent'")
    assert tracked.data.params["training.precision"] == "32-true"
    on(monkeypatch, True)
    resumed, _ = run(resume=True)
    assert resumed.record == begun.record


def test_imitated_bfloat16_is_announced_once_with_its_cost(tiny_config, tmp_path, monkeypatch):
    on(monkeypatch, False)
    monkeypatch.setattr("dermaffinity.experiments.run.launch", lambda *arguments: None)
    monkeypatch.setattr("dermaffinity.experiments.run.measured", lambda *arguments: None)
    configs = [read_config(tiny_config, ["training.precision=bf16-mixed", f"name=tiny{n}"]) for n in range(2)]
    console = Console(file=StringIO())
    run_experiments(configs, Plan(runs=tmp_path, console=console))
    said = console.file.getvalue()
    assert said.count("Warning: training.precision=bf16-mixed: this processor has no bfloat16") == 1
    assert "15 to 30 times the time of float32" in said

"""Runs the other scripts of this folder, one after the other, and writes what they measured to results.md.

A script prints for people, and for each figure one line ``result:`` (`side_by_side.result`): a ratio of two things that
were measured side by side, how far it varied, and what it should be, if anything. The table is written after each
script, so that what fails or is interrupted costs no other figure.

    python benchmarks/results.py [SCRIPT ...]
"""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from dermaffinity.training import has_bfloat16

HERE = Path(__file__).parent
SHARED = {"results.py", "side_by_side.py"}


def main() -> None:
    scripts = [Path(name) for name in sys.argv[1:]] or [
        path for path in sorted(HERE.glob("*.py")) if path.name not in SHARED
    ]
    rows: list[str] = []
    missing = [script.name for script in scripts]
    started = time.monotonic()
    for script in scripts:
        print(f"\n{script.name}", flush=True)
        with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("result: "):
                    rows.append(row(json.loads(line.removeprefix("result: ")), script.name))
                    write(rows, missing, time.monotonic() - started)
                else:
                    print(line, end="", flush=True)
        if process.returncode == 0:
            missing.remove(script.name)
        write(rows, missing, time.monotonic() - started)
    print(f"\n{HERE / 'results.md'}: {len(rows)} figures")
    if missing:
        sys.exit(f"failed: {', '.join(missing)}")


def row(found: dict[str, str | float], script: str) -> str:
    spread = f"{found['low']:.2f} to {found['high']:.2f}" if "low" in found else ""
    return f"| {found['figure']} | {found['ratio']:.2f} | {spread} | {found['wanted']} | {script} |"


def write(rows: list[str], missing: list[str], seconds: float) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = f"{os.cpu_count()} CPU cores, {'' if has_bfloat16() else 'no '}bfloat16 in hardware, {device}"
    lines = [
        "# Measured ratios",
        "",
        f"By `make bench`, {datetime.now(UTC):%Y-%m-%d}, in {seconds / 60:.0f} minutes, on {machine}, torch "
        f"{torch.__version__}. The spread is the smallest and largest ratio of the rounds.",
        "",
        "| figure | ratio | spread | wanted | script |",
        "| --- | ---: | --- | --- | --- |",
        *rows,
        *(["", f"Did not end well: {', '.join(missing)}."] if missing else []),
    ]
    (HERE / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Runs the other scripts of this folder, one after the other, and writes what they measured to results.md.

A script prints for people, and for each figure one line ``result:`` with JSON: what it is, a ratio of two things that
were measured side by side, and what it should be, if anything.

    python benchmarks/results.py [SCRIPT ...]
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from dermaffinity.training import has_bfloat16

HERE = Path(__file__).parent


def main() -> None:
    scripts = [Path(name) for name in sys.argv[1:]] or [
        path for path in sorted(HERE.glob("*.py")) if path.name != Path(__file__).name
    ]
    rows, failed = [], []
    for script in scripts:
        print(f"\n{script.name}", flush=True)
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("result: "):
                found = json.loads(line.removeprefix("result: "))
                rows.append((found["figure"], f"{found['ratio']:.2f}", found.get("wanted", ""), script.name))
            else:
                print(line, end="", flush=True)
        if process.wait() != 0:
            failed.append(script.name)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = f"{os.cpu_count()} CPU cores, {'' if has_bfloat16() else 'no '}bfloat16 in hardware, {device}"
    lines = [
        "# Measured ratios",
        "",
        f"By `make bench`, {datetime.now(UTC):%Y-%m-%d}, on {machine}, torch {torch.__version__}.",
        "",
        "| figure | ratio | wanted | script |",
        "| --- | ---: | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    (HERE / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\n{HERE / 'results.md'}: {len(rows)} figures")
    if failed:
        sys.exit(f"{', '.join(failed)} failed; their figures are missing")


if __name__ == "__main__":
    main()

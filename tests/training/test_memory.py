import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from dermaffinity.training.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
def fault():
    torch.ones(16_000_000)  # 64 MB, touched and freed
for _ in range(20):  # until the heap has a place of the size
    fault()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fault()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(finished.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_a_freed_tensor_is_not_given_back_and_asked_for_again():
    given_back, kept = page_faults(False), page_faults(True)
    # Counted, not timed. Huge pages make few faults of many, so that only the ratio tells.
    assert kept < given_back / 4

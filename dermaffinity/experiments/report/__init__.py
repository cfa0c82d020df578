"""One experiment's report: its content, which ``report.html`` renders."""

from dermaffinity.experiments.report.write import Written, report

__all__ = ["Written", "report"]

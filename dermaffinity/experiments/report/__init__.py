"""One experiment's report: its content, which ``report.html`` renders."""

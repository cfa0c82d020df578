"""One experiment as one page: its content, which ``reports.html`` renders."""

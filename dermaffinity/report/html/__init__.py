"""A report as one HTML file: its parts, its template, its checklists."""

__all__: list[str] = []  # `dermaffinity.experiments.write_report` is the way in

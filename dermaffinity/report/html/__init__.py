"""A report as one HTML file: its parts, its template, its checklists."""

"""Measures of prediction tables, their uncertainty and their comparison. Nothing here knows models, data or reports."""

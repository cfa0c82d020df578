"""Figures and tables of measures. Functions return them; the caller saves or prints."""

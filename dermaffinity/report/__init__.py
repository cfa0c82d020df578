"""Tables, figures and HTML for results; nothing here knows where results come from."""

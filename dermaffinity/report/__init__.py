"""One experiment as one page: what there is to say, for ``reports.html`` to lay out."""

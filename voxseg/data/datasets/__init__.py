"""Data sets of scans with labels: found in the layouts of the field, checked, and divided into folds."""

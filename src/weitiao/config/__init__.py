"""The options of runs and comparisons: declared once, checked, loaded from YAML and words."""

"""Full against LoRA on the same work: run the cells, put the measurements side by side, report."""

"""Side effects of training: what is learnt by heart (of_run.py asks, scores.py counts) and what is forgotten."""

"""What a run will cost, before it runs: memory by part, time, storage."""

"""The run folder: the only contract between the stages."""

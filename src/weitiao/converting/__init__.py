"""Configurations of LLaMA-Factory, ms-swift, TRL and axolotl as configurations of weitiao, with what became of every key."""

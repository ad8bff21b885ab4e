"""Configurations of LLaMA-Factory, ms-swift, TRL, axolotl and Trainer as configurations of weitiao, with what became of every key."""

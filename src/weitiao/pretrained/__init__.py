"""Models and tokenizers from a catalogue name, hub id, folder or GGUF file."""

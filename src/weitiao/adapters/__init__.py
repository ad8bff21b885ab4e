"""What is done with the adapters that LoRA runs leave."""

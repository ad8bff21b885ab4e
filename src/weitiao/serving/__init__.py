"""Many finished runs behind one address: bases shared, adapters mixed in one batch."""

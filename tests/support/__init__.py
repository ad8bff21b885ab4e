"""What several test files share: small models, finished cells, processes, file sets."""

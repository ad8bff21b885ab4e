"""Measured crossovers between implementations (docs/performance.md). Free of imports, so that messages can cite them."""

SHORT_UP_TO_TOKENS = 512

"""What a run costs: meters that read it and formulas that predict it."""

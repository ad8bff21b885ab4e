"""What counts as beyond chance. Apart from the statistics, so that sentences can be made without them."""

ALPHA = 0.05
MIN_PAIRS = 3  # for an interval over seeds: two numbers have a spread, but none worth a claim
MIN_PAIRS_SIGN_FLIP = 6  # the fewest whose smallest two-sided p, 2/2^n, is under ALPHA

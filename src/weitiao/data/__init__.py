"""From files to index lists: read rows, prepare the split, encode, plan batches."""

"""What a finished run says about new rows."""

"""What a guard goes by, without labels: signals, calibration, verdicts, estimates, changes."""

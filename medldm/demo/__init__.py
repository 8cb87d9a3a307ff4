"""The embedded cohort and `medldm demo`."""

"""Weights of MONAI's networks brought into those of medldm."""

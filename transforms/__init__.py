"""Array and dictionary transforms, imported as `medldm.transforms`."""

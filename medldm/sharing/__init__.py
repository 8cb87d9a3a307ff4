"""Shipped bundles, copies of them for one's own cohort, and packages of trained models."""

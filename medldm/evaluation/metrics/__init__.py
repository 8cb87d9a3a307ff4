"""Pure measures of arrays and features."""

"""From measures to the results of a report."""

"""What an evaluation refuses to measure; a report then says "not computed", and why."""

from __future__ import annotations

from medldm.errors import MedldmError


class NotMeasurableError(MedldmError, ValueError):
    """A measure does not apply to these cases: they are too small, without contrast or without label maps."""


class TooFewCasesError(NotMeasurableError):
    """A measure was refused because there are too few cases for it to mean anything."""

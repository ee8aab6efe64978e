"""Where an address is, from a MaxMind DB the operator supplies. Nothing is asked over a network."""

from __future__ import annotations

from pathlib import Path

import maxminddb

from limen.core.faults import ConfigFault, DependencyFault


class Places:
    """Implements `identity.session_risk.Locate`. Opened once; a new file takes effect with the next reload."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigFault for a file that cannot be read or is no MaxMind DB."""
        try:
            self._reader = maxminddb.open_database(path)
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
            raise ConfigFault(f"not a MaxMind DB that can be read: {error}", str(path)) from None

    def __call__(self, address: str) -> tuple[float, float] | None:
        """Latitude and longitude in degrees; None where the file does not know. Raises DependencyFault."""
        try:
            found = self._reader.get(address.partition("%")[0].removeprefix("::ffff:"))
        except ValueError:
            return None  # not an address, or one of a family the file does not have
        except maxminddb.InvalidDatabaseError as error:
            raise DependencyFault("places", str(error), retryable=False) from None
        place = found.get("location") if isinstance(found, dict) else None
        if not isinstance(place, dict):
            return None
        latitude, longitude = place.get("latitude"), place.get("longitude")
        if not isinstance(latitude, int | float) or not isinstance(longitude, int | float):
            return None
        return float(latitude), float(longitude)

"""When torch wakes its threads, and how much work is better split than handed to them."""

import os

SERIAL = (1 << 15) - 1  # elements: torch runs most operations on one thread up to here
# Work of a few times as much goes faster in parts where torch's other threads sleep between operations: waking one
# costs 50 us.
PARTS = 4 if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive" else 1

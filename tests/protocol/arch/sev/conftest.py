"""Guest hosts at some depth."""

from __future__ import annotations

import sys
from pathlib import Path

# The helpers of this folder are plain modules beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

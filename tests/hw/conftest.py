"""The tests of this folder and their cocotb modules import ``cocotb_block`` from the folder above."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

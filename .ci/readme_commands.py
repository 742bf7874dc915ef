"""Write the first two ``sh`` blocks of the README as scripts."""

import re
import sys
from pathlib import Path

blocks = re.findall(r"^```sh\n(.*?)^```", Path("README.md").read_text(), re.M | re.S)
for number, block in enumerate(blocks[:2], start=1):
    if len(block.strip().splitlines()) != 1:
        sys.exit(f"README: sh block {number} should be one command line:\n{block}")
    Path(sys.argv[1], f"command_{number}.sh").write_text(block)
if len(blocks) < 2:
    sys.exit("README: two sh blocks were expected")

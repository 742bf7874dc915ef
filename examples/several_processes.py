"""
One fit in several processes
============================

Start it by ``torchrun --nproc-per-node 2 several_processes.py``: every process fits on
the same images, and all end with the same labels. Nothing of the script would change
for a single process, or for one process a GPU.
"""

import os
import sys

from skdeepcluster import DigPro
from skdeepcluster.datasets import load_digits_images

quick = "--quick" in sys.argv

# %%
# Each process reads the images: as a memory map or a list of files, one copy serves all
# that are on a machine. ``batch_size`` counts the images of all processes together.

X, _ = load_digits_images()
model = DigPro(
    10,
    batch_size=256,
    max_epochs=4 if quick else "auto",
    checkpoint="several-processes" if "--checkpoint" in sys.argv else None,
    random_state=0,
    verbose=1,
)
labels = model.fit_predict(X)

# %%
# The first process alone writes and prints.

if os.environ.get("RANK", "0") == "0":
    print(f"{len(labels)} labels, clusters of {model.cluster_sizes_.tolist()}")

"""Real text -> train.bin and val.bin of uint16 tokens, one per character, as nanoGPT's char-level data sets have them.

The text is the Python language reference as every Python carries it for `help()`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np


def prepare(directory: Path) -> None:
    """Write the token bins and the vocabulary."""
    text = "".join(topics[name] for name in sorted(topics))
    characters = sorted(set(text))
    index = {character: number for number, character in enumerate(characters)}
    tokens = np.array([index[character] for character in text], dtype=np.uint16)
    cut = int(0.9 * len(tokens))
    directory.mkdir(parents=True, exist_ok=True)
    tokens[:cut].tofile(directory / "train.bin")
    tokens[cut:].tofile(directory / "val.bin")
    (directory / "vocabulary.json").write_text(json.dumps(characters))
    print(f"{cut} training tokens and {len(tokens) - cut} held-out ones of {len(characters)} characters in {directory}")


if __name__ == "__main__":
    prepare(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))

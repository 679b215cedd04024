"""Write the default corpus as token files that nano.py reads, with the same held-out windows.

python export_prose.py prose
"""

import shutil
import sys
from pathlib import Path

from scaling.config import DataConfig
from scaling.data.corpus import prepare
from scaling.data.windows import held_out_windows

folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
files = prepare(DataConfig(corpus="prose", tokenizer="bpe-1024"))
shutil.copy(files.train, folder / "train.bin")
windows = held_out_windows(files.test, 65_536, 128)  # rows of 129 tokens
windows.astype("uint16").tofile(folder / "val.bin")

"""Make an engine from numpy arrays instead of files: read a checkpoint by hand, hand it over.

python examples/python/from_tensors.py
"""

import json

import numpy as np

from kilotok import Engine, SamplingParams
from kilotok.loading import demo_checkpoint

path = demo_checkpoint()
config = json.loads((path / "config.json").read_text())

# numpy has neither bf16 nor fp8: a pair of type name and array says what the bytes are.
NUMPY = {"F32": np.float32, "BF16": np.uint16, "F8_E4M3": np.uint8, "U8": np.uint8}
tensors = {}
for file in sorted(path.glob("*.safetensors")):
    blob = np.fromfile(file, dtype=np.uint8)
    size = int(blob[:8].view(np.uint64)[0])
    for name, entry in json.loads(bytes(blob[8 : 8 + size])).items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        data = blob[8 + size + start : 8 + size + end].copy()
        array = data.view(NUMPY[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)

with Engine.from_tensors(config, tensors, tokenizer=path) as engine:
    print(engine.generate("import os\n", SamplingParams(max_tokens=32)).text)

"""This package's side of input_pipeline.py: batches of train_stream, by one of its ways.

Variants, joined by commas: approximate (scaled decoding), cropped (with nvImageCodec, which is
hidden otherwise), host (numpy arrays made by a pool of threads, never put on a device).
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import turns

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def stream_of(data: str, variant: set[str], batch: int, threads: int, size: int = 224):
    """A train_stream of the photographs that decodes every image every time."""
    if "cropped" not in variant:
        sys.modules["nvidia.nvimgcodec"] = None  # as if it were not installed
    from big_vit_lite.config import Data
    from big_vit_lite.data import stream

    stream.DECODED_BYTES = 0  # these few images would fit into memory, a data set does not
    decode = "decode(approximate=True)" if "approximate" in variant else "decode"
    crop = f"random_resized_crop({size}, scale={turns.SCALE}, ratio={turns.RATIO})"
    split = {"source": "tar", "path": data, "label_key": "txt"}
    split["transform"] = f"{decode}|{crop}|flip"
    config = Data.model_validate({"batch_size": batch, "train": split, "threads": threads})
    return stream.train_stream(config, seed=0)


def on_host(stream, start: int, n: int, threads: int):
    """Batches made whole by each thread."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for i in range(start, start + n):
            waiting.append(pool.submit(stream.host_batch, i))
            if len(waiting) > threads:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def main() -> None:
    options = turns.read_options()
    variant = set(options.variant.split(",")) - {""}
    stream = stream_of(options.data, variant, options.batch, options.threads, options.size)

    def make(turn: int, n: int):
        if "host" in variant:
            return on_host(stream, turn * n, n, options.threads)
        return stream.iterate(turn * n, turn * n + n)

    names = ["jax", "grain", "numpy", "opencv-python-headless"]
    names += ["nvidia-nvimgcodec-cu13"] if "cropped" in variant else []
    turns.serve(options, {name: version(name) for name in names}, make, ahead=2)


if __name__ == "__main__":
    main()

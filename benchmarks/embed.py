"""How fast and in how much memory images are embedded, and embeddings searched.

    python benchmarks/embed.py --out results/embed_cpu.json

Writes JPEGs of 500x375 pixels and a ViT (random parameters, --variant) to a temporary folder.
In processes of their own, the images are read and decoded alone, the model computes alone on one
batch again and again, and `python -m big_vit_lite.predict embed` does both. Then ten of the images
look for their nearest among --vectors random vectors in float16, exactly. Memory is the peak of
what the process itself holds (RssAnon, seen every 20 ms), without files that are mapped.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

BATCH = 64
PARTS = {
    "decoding": "for batch in images.batches(64): done(len(batch.rows))",
    "model": """
batch = next(images.batches(64))
answer = compiled.Compiled(model, lambda p, x: {"f": model.encode_image(x, p)}, 64)
np.asarray(answer(batch.pixels)["f"])
done(0)
while count[0] < 256: np.asarray(answer(batch.pixels)["f"]); done(64)
""",
}
ALONE = """
import glob, json, sys, time
import numpy as np
import big_vit_lite as bvl
from big_vit_lite.predict import compiled, reading
model = bvl.load("vit")
images = reading.Images(model, sorted(glob.glob("images/*.jpg")))
count, began, cpu = [0], [0.0], [0.0]
def done(n):
    if not began[0]: began[0], cpu[0], n = time.perf_counter(), time.process_time(), 0
    count[0] += n
{code}
seconds = time.perf_counter() - began[0], time.process_time() - cpu[0]
print(json.dumps([round(count[0] / s, 2) for s in seconds]))
"""


def write(folder: Path, images: int, vectors: int, variant: str) -> None:
    """images/, vit/ and many.npy with what lies beside it."""
    import jax

    import big_vit_lite as bvl
    from big_vit_lite import config, models, weights
    from big_vit_lite.predict import identity
    from big_vit_lite.predict.rows import npy_header

    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(images):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image = np.clip(image + rng.integers(-9, 10, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i:05}.jpg"), image)
    sections = weights.Sections(config.Model(variant=variant, image_size=224, pool="map"))
    model = sections.build("cpu", scan=False)
    params = jax.device_get(jax.jit(lambda: models.init_params(model, jax.random.key(0)))())
    said = weights.Preprocessing(
        "decode|resize_small(256)|central_crop(224)", (0.5,) * 3, (0.5,) * 3
    )
    weights.save(folder / "vit", params, sections, "big-vision-vit", said)
    about = identity.of_model(bvl.load(folder / "vit"))
    width = models.parse_variant(variant)[0].width
    with open(folder / "many.npy", "wb") as file, open(folder / "many.npy.paths.txt", "w") as paths:
        file.write(npy_header(vectors, width, "float16"))
        for start in range(0, vectors, 10_000):
            rows = rng.normal(size=(min(10_000, vectors - start), width)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            file.write(rows.astype(np.float16).tobytes())
            paths.writelines(f"images/{start + i}.jpg\n" for i in range(len(rows)))
    about |= {"rows": vectors, "dimension": width, "dtype": "float16"}
    (folder / "many.npy.json").write_text(json.dumps(about))


def measured(command: list[str], folder: Path) -> dict:
    """Runs it; seconds, processor seconds, peak MiB, and what it printed."""
    before = os.times()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    peak = 0
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(text.split("RssAnon:")[1].split()[0]))
        except (OSError, IndexError, ValueError):
            pass
        time.sleep(0.02)
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(err.decode())
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    seconds = time.perf_counter() - began
    figures = {"seconds": round(seconds, 1), "processor_seconds": round(used, 1)}
    return {**figures, "peak_mib": peak // 1024, "out": out.decode(), "err": err.decode()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--variant", default="B/32")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {"command": " ".join(["python", *sys.argv]), "tower": f"ViT-{options.variant}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.images, options.vectors, options.variant)
        for part, code in PARTS.items():
            said = measured(["-c", ALONE.replace("{code}", code)], folder)
            by_clock, by_processor = json.loads(said["out"])
            found[part] = {"images_per_s": by_clock, "images_per_processor_s": by_processor}
        argv = ["-m", "big_vit_lite.predict"]
        embed = measured([*argv, "embed", "vit", "images", "--out", "a.npy"], folder)
        few = measured([*argv, "embed", "vit", "images/000*.jpg", "--out", "few.npy"], folder)
        rate = embed["err"].split(" images/s")[-2].split()[-1]
        kept = ("seconds", "processor_seconds", "peak_mib")
        found["embed"] = {"images": options.images, "images_per_s": float(rate)}
        found["embed"] |= {k: embed[k] for k in kept}
        found["embed_100"] = {k: few[k] for k in kept}
        queries = [f"images/{i:05}.jpg" for i in range(10)]
        similar = measured([*argv, "similar", "vit", *queries, "--embeddings", "many.npy"], folder)
        found["similar"] = {"vectors": options.vectors, **{k: similar[k] for k in kept}}
    import jax

    found["versions"] = {"python": platform.python_version(), "jax": jax.__version__}
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""AugReg's and big_vision's .npz, names by hand, through the loaders of timm and open_clip."""

import pathlib
import tempfile

import numpy as np
from common import (
    CLASSES,
    DEPTH,
    HEADS,
    LENGTH,
    MLP,
    OTHER,
    PATCH,
    SIDE,
    TEXT_HEADS,
    TEXT_WIDTH,
    VOCABULARY,
    WIDTH,
    Arrays,
    lower_variance,
    noise,
)

GRID = SIDE // PATCH
AUGREG = {"LayerNorm_1": "LayerNorm_2", "MlpBlock_0": "MlpBlock_3",
          "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1"}  # fmt: skip


def _attention(at: str, width: int, heads: int) -> dict:
    per_head = width // heads
    found = {f"{at}/out/kernel": (heads, per_head, width), f"{at}/out/bias": (width,)}
    for name in ("query", "key", "value"):
        found |= {f"{at}/{name}/kernel": (width, heads, per_head),
                  f"{at}/{name}/bias": (heads, per_head)}  # fmt: skip
    return found


def _norm(at: str, width: int) -> dict:
    return {f"{at}/scale": (width,), f"{at}/bias": (width,)}


def _dense(at: str, inputs: int, outputs: int) -> dict:
    return {f"{at}/kernel": (inputs, outputs), f"{at}/bias": (outputs,)}


def _mlp(at: str, width: int, hidden: int) -> dict:
    return _dense(f"{at}/Dense_0", width, hidden) | _dense(f"{at}/Dense_1", hidden, width)


def _stack(at: str, width: int, heads: int, hidden: int) -> dict:
    found = _norm(f"{at}/encoder_norm", width)
    for i in range(DEPTH):
        block = f"{at}/encoderblock_{i}"
        found |= _norm(f"{block}/LayerNorm_0", width) | _norm(f"{block}/LayerNorm_1", width)
        found |= _attention(f"{block}/MultiHeadDotProductAttention_0", width, heads)
        found |= _mlp(f"{block}/MlpBlock_0", width, hidden)
    return found


def _image(prefix: str, pool: str) -> dict:
    names = {
        "embedding/kernel": (PATCH, PATCH, 3, WIDTH), "embedding/bias": (WIDTH,),
        "pos_embedding": (1, GRID**2, WIDTH), **_stack("Transformer", WIDTH, HEADS, MLP),
    }  # fmt: skip
    if pool == "tok":
        names["cls"] = (1, 1, WIDTH)
    if pool == "map":
        names |= {"MAPHead_0/probe": (1, 1, WIDTH), **_norm("MAPHead_0/LayerNorm_0", WIDTH)}
        names |= _attention("MAPHead_0/MultiHeadDotProductAttention_0", WIDTH, HEADS)
        names |= _mlp("MAPHead_0/MlpBlock_0", WIDTH, MLP)
    return {prefix + name: shape for name, shape in names.items()}


def _draw(names: dict, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: noise(name, shape, rng) for name, shape in names.items()}


def _zoomed(table: np.ndarray, first: int) -> np.ndarray:
    """big_vision's and vision_transformer's rule of resampling: scipy's zoom of order 1."""
    import scipy.ndimage

    new = tuple(n // PATCH for n in OTHER)
    grid = table[0, first:].reshape(GRID, GRID, -1)
    rows = scipy.ndimage.zoom(grid, (new[0] / GRID, new[1] / GRID, 1), order=1)
    assert rows.shape[:2] == new
    return np.concatenate([table[:, :first], rows.reshape(1, -1, WIDTH)], axis=1)


def _through_timm(file: Arrays, table: str, first: int, seed: int, architecture: str, **args):
    """Outputs at both sizes of timm models with the tanh form, loaded by timm's own loader."""
    from timm_models import _model, outputs

    arrays, args = {}, {"act_layer": "gelu_tanh", **args}
    for case, size, x in (
        ("native", SIDE, file), ("other", OTHER, file | {table: _zoomed(file[table], first)})
    ):  # fmt: skip
        model = _model(architecture, **args, img_size=size, dynamic_img_size=False)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "vit.npz"
            np.savez(path, **x)
            model.load_pretrained(str(path))
        arrays |= outputs(model, seed, cases=(case, "low") if case == "native" else (case,))
    return arrays | {f"npz/{name}": x for name, x in file.items()}


def augreg(seed: int = 60) -> Arrays:
    names = _image("", "tok") | _dense("head", WIDTH, CLASSES)
    del names["pos_embedding"]
    for old, new in AUGREG.items():
        names = {k.replace(f"/{old}/", f"/{new}/"): x for k, x in names.items()}
    table = "Transformer/posembed_input/pos_embedding"
    names[table] = (1, 1 + GRID**2, WIDTH)
    file = {f"opt/target/{k}": x for k, x in _draw(names, seed).items()}
    return _through_timm(file, f"opt/target/{table}", 1, seed, "vit_base_patch16_224")


def big_vision_map(seed: int = 61) -> Arrays:
    file = _draw(_image("params/", "map") | _dense("params/head", WIDTH, CLASSES), seed)
    return _through_timm(
        file, "params/pos_embedding", 0, seed, "vit_base_patch16_siglip_224"
    )  # fmt: skip


def big_vision_token(seed: int = 62) -> Arrays:
    """A class token without a row in the position table."""
    file = _draw(_image("params/", "tok") | _dense("params/head", WIDTH, CLASSES), seed)
    args = {"no_embed_class": True}
    return _through_timm(file, "params/pos_embedding", 0, seed, "vit_base_patch16_224", **args)


def big_vision_pair(seed: int = 63) -> Arrays:
    """SigLIP, through open_clip's loader; the tanh form in both towers."""
    import ml_dtypes
    from open_clip.convert import load_big_vision_weights
    from open_clip_models import _inputs, build_siglip, run, siglip_settings

    text = {
        "Embed_0/embedding": (VOCABULARY, TEXT_WIDTH), "pos_embedding": (1, LENGTH, TEXT_WIDTH),
        **_stack("Encoder_0", TEXT_WIDTH, TEXT_HEADS, MLP),
        **_dense("head", TEXT_WIDTH, WIDTH),
    }  # fmt: skip
    names = _image("params/img/", "map") | {f"params/txt/{k}": x for k, x in text.items()}
    file = _draw(names | {"params/t": (1,), "params/b": (1,)}, seed)
    half = {k: x.astype(ml_dtypes.bfloat16) for k, x in file.items() if k.endswith("kernel")}
    file |= {k: x.astype(np.float32) for k, x in half.items()}
    about = siglip_settings(act_kwargs={"approximate": "tanh"})
    about["vision_cfg"]["timm_model_name"] = "vit_so400m_patch16_siglip_256"  # tanh
    model = build_siglip(about)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "siglip.npz"
        np.savez(path, **file)
        load_big_vision_weights(model, str(path))
    x, tokens = _inputs(seed, end=False)
    stored = file | {k: x.view("V2") for k, x in half.items()}
    arrays = run(model, x["native"], tokens, "native")
    lower_variance(model)
    arrays |= run(model, x["native"], tokens, "low")
    return arrays | {f"npz/{k}": v for k, v in stored.items()}


RECORDS = {
    "L01-augreg": augreg,
    "L02-map": big_vision_map,
    "L02-token": big_vision_token,
    "L03-siglip": big_vision_pair,
}

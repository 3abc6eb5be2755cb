"""Every layout: files as their source writes them, outputs equal, the nearest wrong model not.

Files and outputs were recorded by tools/record_weights; tests marked `extra` compare live.
"""

import copy
import functools
import importlib.util

import numpy as np
import pytest
from weights import parity

from big_vit_lite.models.layers.stem import GROUPS
from big_vit_lite.weights.layouts import LAYOUTS
from big_vit_lite.weights.sections import Sections

NAMES = sorted(path.stem for path in parity.GOLDENS.glob("*.npz"))


def assert_equal(name, loaded, arrays, any_weights=False):
    """Each output to 1e-5 of its largest value. Of `any_weights`, images and texts may happen to be
    all but orthogonal, and the largest logit small beside the factor exp(t) on their cosines: then
    logits are equal to 1e-5 of the factor."""
    for case in parity.cases(arrays):
        params = parity.params_for(loaded, case)
        found = parity.errors(loaded.sections, params, arrays, case)
        if any_weights and "t" in params and "logits" in found:
            largest = np.abs(arrays[f"{case}/logits"]).max()
            found["logits"] *= float(largest / max(largest, np.exp(params["t"][0])))
        assert max(found.values()) < parity.SAME, (name, case, found)


@pytest.mark.parametrize("name", NAMES)
def test_equal(name):
    assert_equal(name, parity.loaded(name), parity.golden(name))


def test_every_layout_is_proven():
    numbers = {layout.number for layout in LAYOUTS}
    assert numbers == {name[:3] for name in NAMES}


NEAREST = {
    "activation": {"erf": "tanh", "tanh": "erf", "quick": "erf"},
    "position_resample": {"cubic": "cubic_torch", "cubic_torch": "cubic",
                          "align_corners": "bilinear", "bilinear_antialiased": "bilinear"},
    "stem_standardize": {"deviation": "variance", "variance": "deviation"},
}  # fmt: skip
IMAGES = {"vit": "", "mae": "encoder", "clip": "img", "coca": "img"}
"""What stands before the image tower's parameters and outputs."""
MAPS = ("root", "stage")
"""Outputs of a hybrid's ResNet, before all that can be wrong in its blocks."""
KERNELS = "ResNet: standardised kernels"


def with_field(sections: Sections, section: str, **fields) -> Sections:
    return sections._replace(**{section: getattr(sections, section).model_copy(update=fields)})


def swapped(params: dict, tower: str, stack: str) -> dict:
    params = copy.deepcopy(params)
    node = params[tower] if tower else params
    attention = node[stack]["encoderblock_0"]["MultiHeadDotProductAttention_0"]
    attention["query"], attention["key"] = attention["key"], attention["query"]
    return params


def gates_swapped(params: dict) -> dict:
    params = copy.deepcopy(params)
    mlp = params["Transformer"]["encoderblock_0"]["MlpBlock_0"]
    mlp["Gate_0"], mlp["Dense_0"] = mlp["Dense_0"], mlp["Gate_0"]
    return params


def wrong(loaded, cases):
    """(what is wrong, tower in which, case that shows it, sections, parameters)."""
    sections, params = loaded.sections, loaded.params
    low = parity.params_for(loaded, "low") if "low" in cases else None
    towers = {"img": ("model", "Transformer"), "txt": ("text", "Encoder_0")}
    if sections.text is None:
        towers = {IMAGES[sections.family]: ("model", "Transformer")}
    for tower, (name, stack) in towers.items():
        section = getattr(sections, name)
        if stack not in (params[tower] if tower else params):
            continue  # a ResNet
        if section.activation in NEAREST["activation"]:
            other = NEAREST["activation"][section.activation]
            yield (
                "activation",
                tower,
                "native",
                with_field(sections, name, activation=other),
                params,
            )
        else:
            yield "gate", tower, "native", sections, gates_swapped(params)
        if low is not None:
            eps = with_field(sections, name, norm_eps=section.norm_eps * 1000)
            yield "epsilon", tower, "low", eps, low
        yield "query and key", tower, "native", sections, swapped(params, tower, stack)
    tower = IMAGES[sections.family]
    if sections.model.max_patches:  # each image has a grid of its own
        rule = NEAREST["position_resample"][sections.model.position_resample]
        yield (
            "positions",
            tower,
            "native",
            with_field(sections, "model", position_resample=rule),
            params,
        )
    if "stem" in params:
        rule = NEAREST["stem_standardize"][sections.model.stem_standardize]
        changed = with_field(sections, "model", stem_standardize=rule)
        yield KERNELS, "", "native", changed, params
        eps = with_field(sections, "model", stem_norm_eps=sections.model.stem_norm_eps * 1000)
        yield "ResNet: epsilon", "", "low", eps, low
    if "other" in cases:
        rule = NEAREST["position_resample"][sections.model.position_resample]
        changed = with_field(sections, "model", position_resample=rule, position_offset=0.0)
        yield "positions", tower, "other", changed, params
        if sections.model.position_resample == "cubic_torch":
            offset = 0.1 - sections.model.position_offset
            changed = with_field(sections, "model", position_offset=offset)
            yield "offset of positions", tower, "other", changed, params


@pytest.mark.parametrize("name", NAMES)
def test_the_nearest_wrong_model_fails(name):
    """In every tensor of the tower in which it is wrong, ten times over the tolerance at least."""
    arrays, loaded = parity.golden(name), parity.loaded(name)
    seen = set()
    for what, tower, case, sections, params in wrong(loaded, parity.cases(arrays)):
        found = parity.errors(sections, params, arrays, case, tower)
        found.pop("hidden", None)  # which patches those are says the noise alone
        if not what.startswith("ResNet"):
            found = {k: x for k, x in found.items() if not k.startswith(MAPS)}
        elif what == KERNELS and sections.model.stem_width == GROUPS:
            del found["root"]  # one feature a group: the norm makes up for its kernel's scale
        assert found and min(found.values()) > parity.DIFFERENT, (what, tower, case, found)
        seen.add(what)
    wanted = {"epsilon", "query and key"} if "low" in parity.cases(arrays) else {"query and key"}
    assert wanted <= seen or name == "L05-resnet"


def test_goldens_come_from_the_recording_scripts():
    hashed = functools.cache(parity.recorder().script_hash)
    for name in NAMES:
        arrays = parity.golden(name)
        sha = hashed(str(arrays["origin/script"]))
        assert str(arrays["origin/script_sha256"]) == sha, f"record {name}.npz again"


def need_the_libraries():
    pytest.importorskip("torch")
    parity.recorder().open_torchvision()
    for library in ("transformers", "timm", "open_clip"):
        pytest.importorskip(library)


@pytest.mark.extra
@pytest.mark.parametrize("name", NAMES)
def test_equal_live(name):
    """With other weights than those recorded, made now by the libraries that are installed."""
    need_the_libraries()
    record = parity.records()[name]
    for seed in (1007, 1008):
        arrays = record(seed)
        assert_equal(name, parity.load(name, arrays), arrays, any_weights=True)


@pytest.mark.extra
@pytest.mark.parametrize("name", NAMES)
def test_the_recording_is_what_the_libraries_compute_now(name):
    need_the_libraries()
    arrays, old = parity.records()[name](), parity.golden(name)
    for key, x in arrays.items():
        if x.dtype == np.float32 and not key.startswith("file/"):
            assert np.abs(x - old[key]).max() <= 1e-5 * np.abs(old[key]).max(), key


def test_the_table_of_the_page_is_what_is_registered_and_recorded():
    path = parity.ROOT / "tools" / "list_layouts.py"
    spec = importlib.util.spec_from_file_location("list_layouts", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = tool.PAGE.read_text()
    assert tool.with_table(page) == page, "run python tools/list_layouts.py"
    for layout in LAYOUTS:
        assert f"| {layout.number} | {layout.title} | `{layout.name}` |" in page

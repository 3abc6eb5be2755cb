"""open_clip's CLIP: its own ViTs and ResNets, and timm towers, which its SigLIP has.

What shapes do not say is in open_clip_config.json, as open_clip pushes it to the hub; of a bare
file of weights it must be known.
"""

from typing import Any

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.models.sizes import SIZES
from big_vit_lite.weights import tables
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Description, Form, Layout
from big_vit_lite.weights.layouts import openai_clip as native
from big_vit_lite.weights.layouts import timm
from big_vit_lite.weights.preprocessing import (
    CLIP,
    NotUnderstood,
    Preprocessing,
    clip_text,
    from_open_clip,
    shortest,
    understood,
    with_text,
)
from big_vit_lite.weights.processors import to_open_clip
from big_vit_lite.weights.rules import NUMBER, Rule
from big_vit_lite.weights.sections import Known, Sections
from big_vit_lite.weights.sizes import image_sizes, resnet_heads, text_size

CONFIG = "open_clip_config.json"
VISION = {
    "pool_type": "tok", "final_ln_after_pool": False, "no_ln_pre": False, "input_patchnorm": False,
    "pos_embed_type": "learnable", "scaled_cosine_attn": False, "scale_heads": False,
    "scale_attn_inner": False, "scale_attn": False, "scale_fc": False, "block_type": None,
}  # fmt: skip
TEXT = {
    "hf_model_name": None, "scaled_cosine_attn": False, "scale_heads": False,
    "scale_attn_inner": False, "scale_attn": False, "scale_fc": False, "block_type": None,
    "correct_cls_mask": False,
}  # fmt: skip
"""Settings that the models here do not have, with the value under which they do nothing."""
POOLS = {"argmax": ("end", False), "last": ("last", False), "eos": ("end", True)}


def fits(source: Source) -> bool:
    own = "visual.conv1.weight" in source.arrays and not native.fits(False)(source)
    return own and not native.fits(True)(source) and "visual.attn_pool.query" not in source.arrays


def fits_trunk(source: Source) -> bool:
    return f"visual.trunk.{timm.QUERY}" in source.arrays


def text_prefix(source: Source) -> str:
    return "text." if "text.token_embedding.weight" in source.arrays else ""


def settings(source: Source) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The model's, the image tower's and the text tower's settings; empty for a bare file.

    Raises:
        InputError: they ask for what the models here have not.
    """
    model = source.configs.get(CONFIG, {}).get("model_cfg", {})
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    for about, neutral, name in ((vision, VISION, "vision_cfg"), (text, TEXT, "text_cfg")):
        for key, value in neutral.items():
            if about.get(key, value) not in (value, None):
                raise InputError(
                    f"{source.path}: {name}.{key} is {about[key]!r} in {CONFIG}, which the models "
                    "here have not."
                )
    return model, vision, text


def activation_of(source: Source, known: Known, model: dict, tower: dict) -> str:
    if not model:
        return known.need("activation", "which GELU its blocks have (quick, erf or tanh)")
    if model.get("quick_gelu"):
        return "quick"
    tanh = (tower.get("act_kwargs") or {}).get("approximate") == "tanh"
    return "tanh" if tanh else "erf"


def per_head(source: Source, known: Known, vision: dict) -> int:
    """Features of a head of the image tower: open_clip's default is 64."""
    if vision or "visual.conv1.weight" not in source.arrays:
        return vision.get("head_width") or native.PER_HEAD
    if "visual.layer1.0.conv1.weight" in source.arrays:
        return native.PER_HEAD
    width = source.shapes["visual.conv1.weight"][0]
    sizes = (size for name, size in SIZES.items() if name != "mu")  # which is nobody's but ours
    published = {size.width // size.heads for size in sizes if size.width == width}
    if len(published) == 1:
        return published.pop()
    return width // known.need("image_heads", "how many heads its image tower has")


def text_section(source: Source, known: Known, model: dict, text: dict) -> config.Text:
    prefix, pools = text_prefix(source), POOLS
    pool = text.get("pool_type") or "argmax"
    if pool not in pools:
        raise InputError(f"{source.path}: text_cfg.pool_type {pool!r} is not known here.")
    name, by_id = pools[pool]
    heads = {"text_heads": text["heads"]} if "heads" in text else {}
    facts = Known(source.path, heads | known.values)
    section = native.text_of(
        source,
        facts,
        prefix,
        activation_of(source, known, model, text),
        norm_eps=(text.get("norm_kwargs") or {}).get("eps", native.EPS),
        causal=not text.get("no_causal_mask", False),
        pool=name,
        end_id=text.get("eos_id", 2) if by_id else None,
    )
    known.asked |= facts.asked
    return section


def joint_of(source: Source, **fields: Any) -> config.Joint:
    bias = "logit_bias" in source.arrays
    defaults = {"max_logit_scale": None if bias else 100.0, "logit_bias": -10.0 if bias else None}
    return config.Joint(**(defaults | fields))


def preprocessing_of(source: Source, sections: Sections) -> Preprocessing | NotUnderstood:
    about, side = source.configs.get(CONFIG, {}), sections.model.image_size
    if "preprocess_cfg" in about:
        cfg = about["preprocess_cfg"]
        found = understood(lambda: from_open_clip(cfg, side), cfg, source.path, CONFIG)
    else:
        found = shortest(side, CLIP)
    text = sections.text
    own = text.vocabulary == 49408 and text.length == 77
    return with_text(found, clip_text(77) if own else None)


def describe(source: Source, known: Known) -> Description:
    model, vision, text = settings(source)
    image = native.image_of(
        source,
        known,
        activation_of(source, known, model, vision),
        per_head(source, known, vision),
    )
    if not image.variant.startswith("RN"):
        eps = (vision.get("norm_kwargs") or {}).get("eps", native.EPS)
        image = image.model_copy(update={"norm_eps": eps})
    prefix = text_prefix(source)
    projection = source.shapes[f"{prefix}text_projection"]
    sections = Sections(
        image,
        text_section(source, known, model, text),
        joint_of(source, features=projection[1]),
    )
    return Description(sections, preprocessing_of(source, sections), {"text_prefix": prefix})


def rules(sections: Sections, form: Form) -> list[Rule]:
    return native.rules(sections, form)


def describe_trunk(source: Source, known: Known) -> Description:
    """A timm image tower, as open_clip's SigLIP has it, beside open_clip's text tower."""
    model, vision, text = settings(source)
    if not model:
        source.config(CONFIG)
    if vision.get("timm_pool") not in ("map", "avg", "token", ""):
        raise InputError(f"{source.path}: timm_pool {vision.get('timm_pool')!r}: unknown here.")
    image, form = timm.trunk_section(
        source,
        known,
        "visual.trunk.",
        vision["timm_model_name"],
        {},
        vision["timm_pool"] or None,
        vision.get("image_size"),
    )
    if "visual.head.mlp.fc1.weight" in source.arrays:
        raise InputError(f"{source.path}: timm_proj 'mlp' is not known here.")
    prefix = text_prefix(source)
    linear = f"{prefix}text_projection.weight" in source.arrays
    head = "visual.head.proj.weight" in source.arrays
    text_head = linear or f"{prefix}text_projection" in source.arrays
    biases = [
        name in source.arrays
        for name, there in (
            ("visual.head.proj.bias", head), (f"{prefix}text_projection.bias", text_head)
        ) if there
    ]  # fmt: skip
    if len(set(biases)) > 1:
        raise InputError(f"{source.path} has a bias in one projection only, unlike models here.")
    which = {(True, True): "both", (True, False): "image", (False, True): "text"}
    sections = Sections(
        image,
        text_section(source, known, model, text),
        joint_of(
            source,
            features=model["embed_dim"],
            projections=which.get((head, text_head), "none"),
            projection_bias=any(biases),
            logit_scale=10.0 if "logit_bias" in source.arrays else 1 / 0.07,
        ),
    )
    form = {"text_prefix": prefix, "timm_model_name": vision["timm_model_name"]}
    return Description(sections, preprocessing_of(source, sections), form)


def rules_trunk(sections: Sections, form: Form) -> list[Rule]:
    return [
        *timm.trunk_rules(sections.model, "visual.trunk.", "img/"),
        *tables.linear("visual.head.proj", "img/head"),
        *native.text_rules(
            sections.text, form.get("text_prefix", "text."), sections.joint.projection_bias
        ),
        Rule("logit_scale", ("t",), NUMBER),
        Rule("logit_bias", ("b",), NUMBER),
    ]


def configs(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    model, text = sections.model, sections.text
    if not model.has_class_token and not model.variant.startswith("RN"):
        raise InputError(
            "open_clip's own ViTs have a class token, and this model has none: choose another "
            "layout, such as open-clip-timm, transformers-siglip or big-vision-pair."
        )
    vision: dict[str, Any] = {"image_size": model.image_size}
    if model.variant.startswith("RN"):
        resnet = sections.build("cpu").img
        vision |= {"layers": list(resnet.stages), "width": resnet.width}
        vision |= {"head_width": 32 * resnet.width // resnet_heads(model)}
    else:
        size, patch = image_sizes(model)
        vision |= {
            "layers": size.depth, "width": size.width, "patch_size": patch[0],
            "head_width": size.width // size.heads, "mlp_ratio": size.mlp_dim / size.width,
            "ls_init_value": model.layer_scale, **_eps(model.norm_eps, native.EPS),
        }  # fmt: skip
    activations = {text.activation, model.activation} if "layers" in vision else set()
    if model.variant.startswith("RN"):
        activations = {text.activation}
    quick = activations == {"quick"}
    if not quick:
        vision |= _tanh(model.activation)
    about = {
        "embed_dim": sections.joint.features,
        "quick_gelu": quick,
        "custom_text": bool(form.get("text_prefix")),
        "vision_cfg": vision,
        "text_cfg": text_settings(text, "text." if form.get("text_prefix") else ""),
    }
    return {
        CONFIG: {
            "model_cfg": about,
            "preprocess_cfg": to_open_clip(model, found, form.get("preprocessor")),
        }
    }


def text_settings(text: config.Text, prefix: str) -> dict[str, Any]:
    size = text_size(text)
    pools = {("end", False): "argmax", ("last", False): "last", ("end", True): "eos"}
    return {
        "context_length": text.length, "vocab_size": text.vocabulary, "width": size.width,
        "heads": size.heads, "layers": size.depth, "mlp_ratio": size.mlp_dim / size.width,
        "no_causal_mask": not text.causal,
        "pool_type": pools.get((text.pool, text.end_id is not None), text.pool),
        **({} if text.end_id is None else {"eos_id": text.end_id}),
        **_eps(text.norm_eps, native.EPS), **_tanh(text.activation),
    }  # fmt: skip


def _eps(eps: float, default: float) -> dict[str, Any]:
    return {} if eps == default else {"norm_kwargs": {"eps": eps}}


def _tanh(activation: str) -> dict[str, Any]:
    return {"act_kwargs": {"approximate": "tanh"}} if activation == "tanh" else {}


def configs_trunk(sections: Sections, found: Preprocessing | None, form: Form) -> dict[str, Any]:
    model = sections.model
    pools = {"map": "map", "gap": "avg", "cls": "token"}
    projected = sections.joint.projections in ("both", "image")
    vision = {
        "image_size": model.image_size,
        "timm_model_name": form.get("timm_model_name") or _trunk_name(model),
        "timm_model_pretrained": False,
        "timm_pool": pools.get(model.pool, ""),
        "timm_proj": "linear" if projected else "none",
        "timm_proj_bias": projected and sections.joint.projection_bias,
    }
    text = text_settings(sections.text, "text.")
    text |= {"proj_bias": sections.joint.projection_bias}
    if sections.joint.projections not in ("both", "text"):
        text |= {"proj_type": "none"}
    about = {
        "embed_dim": sections.joint.features,
        "init_logit_bias": sections.joint.logit_bias,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }
    return {
        CONFIG: {
            "model_cfg": about,
            "preprocess_cfg": to_open_clip(model, found, form.get("preprocessor")),
        }
    }


def _trunk_name(model: config.Model) -> str:
    """timm's name for a SigLIP tower of a published size."""
    side, (size, patch) = model.image_size, image_sizes(model)
    names = {"B": "base", "L": "large", "So400m": "so400m", "g-opt": "giantopt"}
    name = next((names.get(k) for k, known in SIZES.items() if known == size), None)
    if name is None or model.pool != "map" or not isinstance(side, int):
        raise InputError(
            "open_clip names timm towers by architecture, and of this size there is none in timm: "
            "save it as transformers-siglip."
        )
    return f"vit_{name}_patch{patch[0]}_siglip_{side}"


LAYOUT = Layout(
    "L06", "open-clip", "open_clip CLIP, ViT and ResNet", fits, describe, rules,
    carried=(r".*\.num_batches_tracked", "(text\\.)?attn_mask"), configs=configs,
    filler=lambda sections, form: native.batch_counts(sections, rules(sections, form)),
    json=(CONFIG,), file="open_clip_model.safetensors",
)  # fmt: skip
TRUNK = Layout(
    "L07", "open-clip-timm", "open_clip with a timm image tower (SigLIP, SigLIP 2)", fits_trunk,
    describe_trunk, rules_trunk, configs=configs_trunk, json=(CONFIG,),
    file="open_clip_model.safetensors",
)  # fmt: skip

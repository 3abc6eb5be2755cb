"""Side `transformers` of latency.py: its models on torch, in inference mode, fused attention."""

import sys

import numpy as np
import turns


def main() -> None:
    options = turns.read_options()
    # Models need none of it, and one that does not fit torch keeps transformers from loading.
    sys.modules["torchvision"] = None
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    kind = {
        "vit_image": transformers.ViTForImageClassification,
        "clip_image": transformers.CLIPVisionModelWithProjection,
        "clip_text": transformers.CLIPTextModelWithProjection,
    }[options.case]
    path = options.folder / options.case.split("_")[0]
    model = kind.from_pretrained(path, attn_implementation="sdpa").eval()

    def prepared(x: np.ndarray):
        if options.case == "clip_text":
            return torch.from_numpy(x).long()
        return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()

    @torch.inference_mode()
    def call(x) -> np.ndarray:
        if options.case == "vit_image":
            return model(pixel_values=x).logits.numpy()
        out = model(input_ids=x) if options.case == "clip_text" else model(pixel_values=x)
        features = out.text_embeds if options.case == "clip_text" else out.image_embeds
        return torch.nn.functional.normalize(features, dim=-1).numpy()

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    turns.serve(options, {"versions": versions}, prepared, call)


if __name__ == "__main__":
    main()

"""open_clip's side of contrastive.py: its loss classes on torch, in a Python that has both.

Only open_clip/loss.py is loaded, from where the package is installed: importing all of open_clip
needs torchvision, which has no part in a loss.
"""

import turns

options = turns.read_options()

import importlib.metadata  # noqa: E402  (after the choice of cores)
import importlib.util  # noqa: E402
import inspect  # noqa: E402

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402


def load():
    """The module open_clip.loss."""
    files = importlib.metadata.files("open_clip_torch")
    path = next(f for f in files if f.as_posix() == "open_clip/loss.py").locate()
    spec = importlib.util.spec_from_file_location("open_clip_loss_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build():
    """The loss of these options."""
    module = load()
    if options.loss == "softmax":
        return module.ClipLoss()
    if options.form == "full":
        return module.SigLipLoss()
    if "chunk_size" in inspect.signature(module.SigLipLoss).parameters:
        return module.SigLipLoss(chunk_size=options.chunk)

    class Chunked(module.SigLipLoss):
        """Releases to 3.3.0 have no chunks. Their later form: all pairs count as negatives, some
        rows at a time, and the matching ones' logits are taken off."""

        def _loss(self, image, text, scale, bias=None, negative_only=False):
            total = 0.0
            for start in range(0, len(image), options.chunk):
                rows = image[start : start + options.chunk]
                logits = self.get_logits(rows, text, scale, bias)
                total = total + F.softplus(logits).sum() - logits.diagonal(start).sum()
            return total / len(image)

    return Chunked()


def main() -> None:
    torch.set_num_threads(options.threads)
    loss = build()
    given = {name: torch.from_numpy(x) for name, x in turns.inputs(options).items()}
    params = {name: given[f"{name}_tower"] for name in ("image", "text")}
    params["scale"] = torch.tensor(turns.SCALE[options.loss])
    if options.loss == "sigmoid":
        params["bias"] = torch.tensor(turns.BIAS)
    for x in params.values():
        x.requires_grad_()

    def step() -> float:
        features = [F.normalize(given[name] @ params[name], dim=-1) for name in ("image", "text")]
        scalars = [params[name] for name in ("scale", "bias") if name in params]
        value = loss(*features, *scalars)
        value.backward()
        for x in params.values():
            x.grad = None
        return value.item()

    versions = {name: importlib.metadata.version(name) for name in ("torch", "open_clip_torch")}
    turns.serve(options, {"versions": versions}, step)


if __name__ == "__main__":
    main()

"""Records what transformers, timm and CLIP's own tokenizer say, for the data tests to compare with.

    python tools/record_data_goldens.py patchify       # needs torch, transformers and timm
    python tools/record_data_goldens.py clip_tokens    # needs ftfy, regex and the package clip

None of them is a requirement of this package. They write tests/data/goldens/NAME.npz or .json,
which hold the versions they were made with.
"""

import argparse
import importlib.util
import json
import pathlib
import random
from importlib.metadata import version

import numpy as np

GOLDENS = pathlib.Path(__file__).parent.parent / "tests" / "data" / "goldens"
SIDES = (1, 7, 15, 16, 17, 100, 224, 333, 640, 1000, 1001, 4032, 20_000)
BUDGETS = (1, 2, 49, 64, 196, 256, 576, 1024)

TEXTS = (
    "",
    " ",
    "a photo of a cat.",
    "A PHOTO of the Cat's tail, isn't it? They'LL've said I'd 'S 'ſ",
    "  tabs\tand\nnew lines \r\n and\u00a0other\u2003spaces\u3000\x1c\x85 end ",
    "1234 12.5 x2 3rd ½ ² ٣ 四 Ⅷ １２",
    "AT&amp;T &lt;b&gt; &amp;lt; &amp;amp;lt; &eacute; &#39;quoted&#39; &#x1F600; &nbsp; &unknown;",
    "The Mona Lisa doesnÃ¢â‚¬â„¢t have eyebrows. schÃ¶n Ã© âœ”",
    "“curly” ‘quotes’ — dashes – … ﬁ ﬂ ﬃ ligatures Ｆｕｌｌ width",
    "naïve café cafe\u0301 Ångström ÅNGSTRÖM İstanbul ıI ß ẞ ǅ ŉ",
    "Привет, мир! Γειά σου Κόσμε ς Շնորհակալ",
    "你好，世界。 日本語のテキスト 한국어 문장 ภาษาไทย हिन्दी العربية עברית",
    "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 text😀text",
    "𝔸𝕓𝕔 𝟘𝟙 𝒜 ⓐ ㎏ ℵ ™ © ®",
    "<|startoftext|>hi<|endoftext|> <|STARTOFTEXT|> <start_of_text> <|x|> <|endoftext",
    "snake_case __init__ user@example.com https://example.com/a?b=c&d=e #tag @name",
    "!!!!! ??!?! ... --- ((())) [[]] {} {}'s a'b'c ''s",
    "\x00\x07\x7f control \u200b zero\u200dwidth \ufeff bom \u202e rtl \ufffd",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbb abababababababab",
    "a diagram, a dog, and a cat: " + "very " * 60 + "long text",
)
FRAGMENTS = (
    *("a", "Z", "ing", "the", " ", "  ", "\n", "'s", "'LL", "'", "ſ", "_", "-", ".", "!?", "7"),
    *("42", "½", "é", "e\u0301", "ﬁ", "ß", "İ", "ж", "中", "文", "한", "ไ", "ع", "😀", "\u200d"),
    *("\ufe0f", "👍🏽", "&amp;", "&lt;", "&#39;", "Ã©", "â€™", "<|endoftext|>", "𝟘", "ⓐ", "\u00a0"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("patchify", "clip_tokens"), help="what to record")
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS, help="folder to write to")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.name == "clip_tokens":
        text = json.dumps(record_clip_tokens())
        (args.out / "clip_tokens.json").write_text(text + "\n")
        return
    np.savez_compressed(
        args.out / "patchify.npz",
        **{"fitted": record_fitted(), "naflex": record_naflex()},
        **{f"origin/{name}": version(name) for name in ("transformers", "timm")},
    )


def record_fitted() -> np.ndarray:
    """Rows (height, width, patch, budget, and SigLIP 2's height and width)."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        get_image_size_for_max_num_patches,
    )

    rows = [
        (height, width, patch, budget)
        for height in SIDES
        for width in SIDES
        for patch in (14, 16)
        for budget in BUDGETS
    ]
    return np.array([row + get_image_size_for_max_num_patches(*row) for row in rows], np.int32)


def record_naflex() -> np.ndarray:
    """Rows (height, width, patch height and width, budget, and timm's height and width)."""
    from timm.data.naflex_transforms import get_image_size_for_seq

    rng = np.random.default_rng(0)
    rows = []
    for height, width in rng.integers(20, 2000, (200, 2)).tolist():
        patch, budget = tuple(rng.integers(4, 33, 2).tolist()), int(rng.integers(16, 1025))
        _, size = get_image_size_for_seq((height, width), patch, budget)
        rows.append((height, width, *patch, budget, *size))
    return np.array(rows, np.int32)


class Recording(dict):
    """Merges, of which it notes those that are applied."""

    def __init__(self, merges: dict):
        super().__init__(merges)
        self.used: set[tuple[str, str]] = set()

    def __contains__(self, merge: object) -> bool:
        if found := super().__contains__(merge):
            self.used.add(merge)
        return found


def original_tokenizer() -> object:
    """SimpleTokenizer of the installed package clip, which is not imported: it needs torch."""
    folder = pathlib.Path(importlib.util.find_spec("clip").origin).parent
    spec = importlib.util.spec_from_file_location("simple", folder / "simple_tokenizer.py")
    simple = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simple)
    return simple.SimpleTokenizer()


def record_clip_tokens() -> dict:
    """Texts with their tokens, and by rank the few merges that lead there (all have 1.4 MB)."""
    original = original_tokenizer()
    original.bpe_ranks = recording = Recording(original.bpe_ranks)
    texts = [*TEXTS, *mixed(random.Random(0), 120), " ".join(TEXTS) * 2]
    tokens = [[text, original.encode(text)] for text in texts]
    merges = sorted([recording[merge], *merge] for merge in recording.used)
    return {
        "origin": {name: version(name) for name in ("clip-anytorch", "ftfy", "regex")},
        "tokens": tokens,
        "merges": merges,
    }


def mixed(rng: random.Random, n: int) -> list[str]:
    """Texts of fragments that are hard in each other's neighbourhood."""
    return ["".join(rng.choice(FRAGMENTS) for _ in range(rng.randrange(1, 12))) for _ in range(n)]


if __name__ == "__main__":
    main()

r"""Holds out examples of an image-text tar whose captions have no near relative among the others.

    python tools/hold_out_captions.py --path DIR --split train --out TUNE --examples 200 \
        --drop "\b(medium-)?(light|dark|medium) skin tone\b" --same "\b(man|woman|person)\b"

A part drawn at random leaves siblings on both sides, "teacher dark skin tone" here and "teacher"
there, and settings that are chosen on it fit what is learned by heart. Here captions are relatives
when they are equal after --drop is taken out and all that --same finds is read as one word; groups
of relatives are held out whole, in random order, until there are --examples. Writes
OUT/fit-00000.tar and OUT/tune-00000.tar, KEY.* as they were, in their order.
"""

from __future__ import annotations

import io
import random
import re
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from big_vit_lite import config
from big_vit_lite.config import Option
from big_vit_lite.config.load import refuse


def expression(text: str) -> re.Pattern[str]:
    """A type of options: a regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"wants a regular expression ({error})") from None


def count_of(text: str) -> int:
    """A type of options: a whole number from 0 on."""
    if not text.isdigit():
        raise ValueError("wants a whole number from 0 on")
    return int(text)


OPTIONS = (
    Option("path", "DIR", "Folder of the shards SPLIT-*.tar.", Path, required=True),
    Option("split", "NAME", "Which shards. Default train."),
    Option("out", "DIR", "Folder for the two parts.", Path, required=True),
    Option("examples", "N", "How many are held out, at least.", count_of, required=True),
    Option("caption", "ENDING", "The member that holds the caption, a text. Default txt."),
    Option("drop", "REGEX", "What makes no difference between captions.", expression),
    Option("same", "REGEX", "Words that are taken for each other.", expression),
    Option("largest", "N", "Groups of more relatives are not held out. Default: any.", count_of),
    Option("seed", "N", "Another number holds out other groups. Default 0.", count_of),
)


def main(argv: list[str]) -> None:
    values, faults = config.options_line(
        argv, program="python tools/hold_out_captions.py", about=__doc__, options=OPTIONS
    )
    if faults:
        raise refuse(faults)
    shards = sorted(values["path"].glob(f"{values.get('split', 'train')}-*.tar"))
    if not shards:
        raise config.InputError(
            f"--path: {values['path']} has no {values.get('split', 'train')}-*.tar"
        )
    examples = read(shards, values.get("caption", "txt"))
    groups = defaultdict(list)
    for number, (_, caption) in enumerate(examples):
        groups[relatives(caption, values.get("drop"), values.get("same"))].append(number)
    largest = values.get("largest", len(examples))
    names = sorted(name for name, members in groups.items() if len(members) <= largest)
    held = draw({name: groups[name] for name in names}, values["examples"], values.get("seed", 0))
    values["out"].mkdir(parents=True, exist_ok=True)
    for part, rows in (("fit", set(range(len(examples))) - held), ("tune", held)):
        write(values["out"] / f"{part}-00000.tar", [examples[row][0] for row in sorted(rows)])
    print(f"{values['out']}: fit has {len(examples) - len(held):,} examples, tune {len(held):,}")


def read(shards: list[Path], ending: str) -> list[tuple[dict[str, bytes], str]]:
    """({member's name: bytes}, caption) of all examples, in their order.

    Raises:
      InputError: an example has no caption, or two have the same name.
    """
    examples: dict[str, dict[str, bytes]] = {}
    for shard in shards:
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.isfile():
                    key = re.match(r"(.*/)?[^./]*", member.name)[0]
                    members = examples.setdefault(key, {})
                    if member.name in members:
                        wanted = "stands there twice, or in two shards; give each its own name"
                        raise config.InputError(f"{shard}: {member.name} {wanted}")
                    members[member.name] = archive.extractfile(member).read()
    found = []
    for key, members in examples.items():
        if f"{key}.{ending}" not in members:
            raise config.InputError(f"--path: {key} has no member .{ending}; see --caption")
        found.append((members, members[f"{key}.{ending}"].decode()))
    return found


def relatives(caption: str, drop: Any, same: Any) -> str:
    """What the captions of one group have in common."""
    caption = drop.sub("", caption) if drop else caption
    caption = same.sub("*", caption) if same else caption
    return re.sub(r"\s+", " ", caption).strip()


def draw(groups: dict[str, list[int]], examples: int, seed: int) -> set[int]:
    """Rows of groups in random order, until they are as many as `examples`."""
    names, held = list(groups), set()
    random.Random(seed).shuffle(names)
    for name in names:
        if len(held) >= examples:
            break
        held.update(groups[name])
    return held


def write(path: Path, examples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in (pair for members in examples for pair in members.items()):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))

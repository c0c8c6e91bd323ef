"""SentencePiece models, and the ids their own library gives."""

import json
import tempfile
from pathlib import Path

import sentencepiece as spm

from common import GOLDEN

CASE = GOLDEN / "spiece"

TEXT = """
A red robot walks to the left on the beach while the sun goes down.
Two cats, one black and one white, dance in the rain; nobody watches them.
The old man's hat (a very tall hat) falls into the sea at 5:30 pm!
Ein grüner Frosch springt über den Zaun und singt ein Lied.
Une voiture rouge traverse la ville pendant la nuit, l'été dernier.
El perro azul corre por la playa con una pelota amarilla.
猫が雪の中で踊っている。赤い帽子をかぶった犬が走る。
Красная собака бежит по снегу и лает на луну.
A close-up of a hand drawing a circle; cinematic, 35mm, shallow depth of field.
She waves, smiles and turns around slowly: the camera follows her.
""".strip().splitlines()

PROMPTS = [
    "a red robot walks to the left on the beach",
    "A cat.",
    "",
    "x",
    "an unseen word: zyzzyva-42 & more…",
    "grüner Frosch ﬁnds ① ｆｕｌｌ width",
    "猫が踊っている",
    "emoji 🙂 and tab",
    "the <subject> token",
]


def train(name, **options):
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text("\n".join(TEXT * 20), encoding="utf-8")
        spm.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(Path(folder, "m")), model_type="unigram", pad_id=0, eos_id=1, unk_id=2,
            bos_id=-1, num_threads=1, minloglevel=2, **options,
        )
        data = Path(folder, "m.model").read_bytes()
    CASE.joinpath(f"{name}.model").write_bytes(data)
    processor = spm.SentencePieceProcessor(model_proto=data)
    # The end of the text is added as T5 does.
    return [processor.encode(prompt) + [processor.eos_id()] for prompt in PROMPTS]


def main():
    CASE.mkdir(parents=True, exist_ok=True)
    ids = {
        "a": train("a", vocab_size=400, byte_fallback=True, normalization_rule_name="nmt_nfkc"),
        "b": train("b", vocab_size=150, normalization_rule_name="identity", user_defined_symbols=["<subject>"]),
    }
    text = json.dumps({"prompts": PROMPTS, "ids": ids}, ensure_ascii=False, indent=1)
    CASE.joinpath("case.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""MSRVTT-Personalization's Text-S, Vid-S, Subj-S and Face-S, with the CLIP and DINO of `evaluate` and the IResNet of `faces`.

Written from the published description; masks and boxes in the generated videos are given, as files.
"""

import json
import math

import cv2
import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from common import GOLDEN, fresh
from evaluate import IMAGENET
from faces import encoder, picture

CLIP_MEAN = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
FRAMES = 3
CAPTION = "a cat walks to the left"
TAGS = {
    "a": dict(subject=["cat"], object=["red ball"], background=["beach"], subject_with_face=["cat"]),
    "b": dict(subject=["cat", "dog"], object=[], background=[], subject_with_face=["dog"]),
}
# Words that are found in each frame of a video.
FOUND = {"a": [["cat"], ["cat", "red ball"], []], "b": [["dog"], [], ["cat", "dog"]]}
FACES = {"a": [2, 0, 1], "b": [0, 0, 0]}


def pixels(image, side, image_mean, image_std):
    """A square picture at the network's size, by Pillow's bicubic filter."""
    resized = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    x = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255
    mean, deviation = [torch.tensor(values).view(3, 1, 1) for values in (image_mean, image_std)]
    return ((x - mean) / deviation)[None]


def middle(image):
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top: top + side, left: left + side]


def on_white(image, mask):
    """What is not of the mask white, in the middle of a white square."""
    image = np.where(mask[:, :, None], image, 255).astype(np.uint8)
    height, width = image.shape[:2]
    side = max(height, width)
    out = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top: top + height, left: left + width] = image
    return out


def unit(rows):
    rows = torch.cat([getattr(row, "pooler_output", row) for row in rows]).double()
    return rows / rows.norm(dim=-1, keepdim=True)


class Networks:
    def __init__(self):
        self.clip = CLIPModel.from_pretrained(GOLDEN / "evaluate" / "clip").eval()
        self.words = CLIPTokenizer.from_pretrained(GOLDEN / "evaluate" / "clip")
        self.dino = ViTModel.from_pretrained(GOLDEN / "evaluate" / "dino").eval()
        self.arcface = encoder()

    def image(self, images):
        return unit([self.clip.get_image_features(pixel_values=pixels(middle(i), 28, **CLIP_MEAN)) for i in images])

    def text(self, caption):
        ids = self.words([caption], truncation=True, max_length=20, padding="max_length", return_tensors="pt")
        return unit([self.clip.get_text_features(**ids)])

    def subject(self, images):
        return unit([self.dino(pixel_values=pixels(i, 24, **IMAGENET)).last_hidden_state[:, 0] for i in images])

    def face(self, images):
        crops = [torch.from_numpy(cv2.resize(i, (112, 112))).permute(2, 0, 1)[None].float() / 127.5 - 1 for i in images]
        return unit([self.arcface(crop) for crop in crops])


def blob(rng, height, width):
    """A mask of an ellipse somewhere."""
    rows, columns = np.mgrid[:height, :width]
    center, radii = rng.uniform(0.4, 0.6, 2) * [height, width], rng.uniform(0.22, 0.35, 2) * [height, width]
    return ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2 < 1


def bounds(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def cut(image, box):
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def grown(box, height):
    left, top, right, bottom = [round(value) for value in box]
    top = max(int(top - 0.17 * (bottom - top)), 0)
    bottom = min(int(bottom + 0.03 * (bottom - top)), height - 1)
    return left, top, right, bottom


def annotate(folder, rng, name):
    """A sample's files, and the pictures in them."""
    tags = TAGS[name]
    info = dict(video="v.mp4", resolution=[50, 40], timestamp=["00:00:00.000", "00:00:04.000"], caption=CAPTION, word_tags=tags)
    (folder / f"{name}.vid_info.json").write_text(json.dumps(info, indent=1) + "\n")
    own = folder / name
    own.mkdir()
    frames = []
    for at in (1, 2, 3):
        frames.append(picture(rng, 40, 50))
        Image.fromarray(frames[-1]).save(own / f"frame{at}.jpg", quality=95, subsampling=0)
        # What the benchmark sees is what the file gives back.
        frames[-1] = np.asarray(Image.open(own / f"frame{at}.jpg").convert("RGB"))
    words = {}
    for word in tags["subject"] + tags["object"]:
        words[word] = []
        for at in (1, 3):
            mask = blob(rng, 44, 56)
            box = bounds(mask)
            crop, alpha = cut(picture(rng, 44, 56), box), cut(mask, box)
            Image.fromarray(np.dstack([crop, alpha.astype(np.uint8) * 255])).save(own / f"{word.replace(' ', '_')}.frame{at}.png")
            words[word].append(on_white(crop, alpha))
    faces = []
    for at in (1, 2):
        faces.append(picture(rng, 50, 30))
        Image.fromarray(faces[-1]).save(own / f"{tags['subject_with_face'][0]}.face.frame{at}.png")
    return frames, words, faces


def generated(folder, rng, name):
    """A video, the masks of what is found in it, and boxes of faces."""
    frames, found, boxes = [], [], []
    (folder / name).mkdir()
    (folder / f"{name}.masks").mkdir()
    for at in range(FRAMES):
        frames.append(picture(rng, 48, 64))
        Image.fromarray(frames[-1]).save(folder / name / f"{at:02}.png")
        found.append({word: blob(rng, 48, 64) for word in FOUND[name][at]})
        for word, mask in found[-1].items():
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}.masks" / f"{word.replace(' ', '_')}.{at:04}.png")
        faces = []
        for _ in range(FACES[name][at]):
            left, top = rng.uniform(5, 20), rng.uniform(3, 12)
            box = [left, top, left + rng.uniform(18, 30), top + rng.uniform(20, 33)]
            faces.append(dict(kps=[[0, 0]] * 5, bbox=[round(value, 2) for value in box], det_score=round(rng.uniform(0.2, 1), 3)))
        boxes.append(faces)
    (folder / f"{name}.faces.json").write_text(json.dumps(boxes) + "\n")
    return frames, found, boxes


def main():
    folder = fresh("msrvtt")
    rng = np.random.default_rng(2300)
    networks = Networks()
    (folder / "annotations").mkdir()
    (folder / "videos").mkdir()
    scores = {}
    for name in TAGS:
        real, words, real_faces = annotate(folder / "annotations", rng, name)
        frames, found, boxes = generated(folder / "videos", rng, name)
        with torch.no_grad():
            image = networks.image(frames)
            total = 0
            for frame, masks in zip(frames, found):
                for word, mask in masks.items():
                    crop = networks.subject([on_white(cut(frame, bounds(mask)), cut(mask, bounds(mask)))])
                    total += (crop @ networks.subject(words[word]).T).mean().item()
            best = [max(faces, key=lambda face: face["det_score"]) if faces else None for faces in boxes]
            crops = [cut(frame, grown(face["bbox"], frame.shape[0])) for frame, face in zip(frames, best) if face]
            face = (networks.face(crops) @ networks.face(real_faces).T).mean().item() * len(crops) / FRAMES if crops else 0
            scores[name] = dict(
                text_s=(image @ networks.text(CAPTION).T).mean().item(),
                vid_s=(image @ networks.image(real).T).mean().item(),
                subj_s=total / (FRAMES * len(words)),
                face_s=face,
            )
        assert all(math.isfinite(value) for value in scores[name].values())
        print(name, scores[name])
    (folder / "case.json").write_text(json.dumps(scores, indent=2) + "\n")


if __name__ == "__main__":
    main()

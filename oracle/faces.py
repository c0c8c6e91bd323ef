"""Faces turned upright: scikit-image's similarity transform and OpenCV's warp, as insightface puts them together, and
what an ArcFace makes of the crops, summed up over a video in two ways."""

import json

import cv2
import numpy as np
import torch
from PIL import Image
from skimage.transform import SimilarityTransform

from common import fresh, generator, liven, liven_statistics, randn, save_case
from iresnet import IResNet

PLACES = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
# Faces in each frame of the video, and in each reference.
FRAMES = [1, 0, 2, 1]
REFERENCES = [1, 2]


def picture(rng, height, width):
    """A smooth one."""
    small = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def face(rng, size):
    """Landmarks somewhere, turned, scaled and not quite a face; a box around them."""
    angle, scale = rng.uniform(-0.6, 0.6), size * rng.uniform(0.4, 0.7)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (PLACES / 112 - 0.5) @ turn.T * scale + rng.uniform(0.35, 0.65, 2) * size + rng.normal(0, 1.5, (5, 2))
    points = points.round(3)
    low, high = points.min(0) - 0.2 * scale, points.max(0) + 0.2 * scale
    return dict(kps=points.tolist(), bbox=[*low.round(3).tolist(), *high.round(3).tolist()], det_score=round(rng.uniform(0.5, 1), 3))


def places(side):
    if side % 112 == 0:
        return PLACES * (side / 112)
    return PLACES * (side / 128) + [8 * side / 128, 0]


def aligned(image, one, side):
    transform = SimilarityTransform.from_estimate(np.array(one["kps"]), places(side))
    matrix = transform.params[:2]
    return matrix, cv2.warpAffine(image, matrix, (side, side), borderValue=0.0)


def area(one):
    left, top, right, bottom = one["bbox"]
    return (right - left) * (bottom - top)


def encoder():
    model = liven(IResNet([1, 1, 1, 1], [4, 5, 6, 8], 112, 12), 2200)
    gen = generator(2201)
    with torch.no_grad():
        model.features.weight.fill_(1)
        liven_statistics(model, gen)
        for name, p in model.named_parameters():
            if "prelu" in name:
                p.copy_(0.25 + 0.1 * randn(gen, *p.shape))
    return model


def embedding(model, crop):
    crop = cv2.resize(crop, (112, 112)) if crop.shape[0] != 112 else crop
    x = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        row = model(x)[0].double()
    return row / row.norm()


def write(folder, name, image, faces=None):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{name}.png")
    if faces is not None:
        (folder / f"{name}.faces.json").write_text(json.dumps([faces]) + "\n")


def main():
    folder = fresh("faces")
    rng = np.random.default_rng(2210)
    model = encoder()
    torch.save(model.state_dict(), folder / "backbone.pth")
    frames = [(picture(rng, 100, 140), [face(rng, 100) for _ in range(count)]) for count in FRAMES]
    references = [(picture(rng, 120, 90), [face(rng, 90) for _ in range(count)]) for count in REFERENCES]
    for at, (image, _) in enumerate(frames):
        write(folder / "videos" / "a", f"{at:02}", image)
    (folder / "videos" / "a.faces.json").write_text(json.dumps([faces for _, faces in frames]) + "\n")
    # One whose faces nobody looked for.
    write(folder / "videos" / "b", "00", frames[0][0])
    for at, (image, faces) in enumerate(references):
        write(folder / "references", f"{at}", image, faces)

    tensors = {}
    for at, (image, faces) in enumerate(references):
        for side in (112, 128, 224):
            matrix, crop = aligned(image, faces[0], side)
            tensors[f"{at}.{side}.matrix"] = torch.from_numpy(matrix)
            write(folder / "crops", f"{at}.{side}", crop)
    scalars = {}
    for policy, side in [("default", 112), ("opens2v", 224)]:
        known = [embedding(model, aligned(image, max(faces, key=area), side)[1]) for image, faces in references]
        scores = []
        for image, faces in frames:
            alike = [np.mean([float(embedding(model, aligned(image, one, side)[1]) @ row) for row in known]) for one in faces]
            if policy == "default":
                scores.append(max(alike, default=0.0))
            elif faces:
                largest = alike[max(range(len(faces)), key=lambda index: area(faces[index]))]
                scores += [largest] if largest > 0 else []
        scalars[policy] = float(np.mean(scores))
        print(policy, scores)
    save_case(folder, tensors, scalars)


if __name__ == "__main__":
    main()

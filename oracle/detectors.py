"""Tiny ONNX files laid out as SCRFD and as a YOLO of faces, and what insightface's and YOLOv9's code make of their outputs.

The networks are single random convolutions; the steps before and after are written out here from their description.
"""

import json

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save_file

from common import fresh
from faces import picture

SIDE = 64
# Of every stride the first pixels are looked at.
KERNEL = 4
# Height and width of the pictures.
SIZES = [(48, 80), (70, 40)]


class Graph:
    """Nodes and weights while they are put together."""

    def __init__(self, seed):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(seed)

    def constant(self, name, value):
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolution(self, name, source, outputs, stride, scale, offset):
        weight = (self.rng.normal(0, scale / KERNEL, (outputs, 3, KERNEL, KERNEL))).astype(np.float32)
        bias = (offset + self.rng.normal(0, 0.3, outputs)).astype(np.float32)
        inputs = [source, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.add("Conv", inputs, name, kernel_shape=[KERNEL] * 2, strides=[stride] * 2)

    def rows(self, name, source, width, output):
        """`(1, anchors * width, rows, columns)` as rows of `width`."""
        turned = self.add("Transpose", [source], f"{name}.turned", perm=[2, 3, 0, 1])
        return self.add("Reshape", [turned, self.constant(f"{name}.shape", np.array([-1, width]))], output)

    def save(self, path, name, shape, outputs, ranks):
        source = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        ends = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ranks) for output in outputs]
        graph = helper.make_graph(self.nodes, "tiny", [source], ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def scrfd(path):
    graph, outputs = Graph(2400), {"score": [], "box": [], "places": []}
    for stride in (8, 16, 32):
        for kind, width, scale, offset in [("score", 1, 1.5, -1.2), ("box", 4, 0.4, 2.0), ("places", 10, 0.4, 0.2)]:
            name = f"{kind}_{stride}"
            source = graph.convolution(f"{name}.conv", "input.1", 2 * width, stride, scale, offset)
            if kind == "score":
                source = graph.add("Sigmoid", [source], f"{name}.sigmoid")
            outputs[kind].append(graph.rows(name, source, width, name))
    graph.save(path, "input.1", [1, 3, "height", "width"], outputs["score"] + outputs["box"] + outputs["places"], ["rows", None])


def yolo(path):
    graph = Graph(2405)
    boxes = graph.convolution("boxes", "images", 4, 8, 45.0, 28.0)
    scores = graph.add("Sigmoid", [graph.convolution("scores.conv", "images", 2, 8, 5.0, 0.5)], "scores")
    both = graph.add("Concat", [boxes, scores], "both", axis=1)
    shape = graph.constant("shape", np.array([1, 6, -1]))
    graph.save(path, "images", [1, 3, "height", "width"], [graph.add("Reshape", [both, shape], "output0")], [1, 6, "places"])


def apart(boxes, scores, overlap, pixel):
    order, kept = list(np.argsort(-scores, kind="stable")), []
    area = (boxes[:, 2] - boxes[:, 0] + pixel) * (boxes[:, 3] - boxes[:, 1] + pixel)
    while order:
        best = order.pop(0)
        kept.append(best)
        rest = []
        for other in order:
            wide = min(boxes[best, 2], boxes[other, 2]) - max(boxes[best, 0], boxes[other, 0]) + pixel
            high = min(boxes[best, 3], boxes[other, 3]) - max(boxes[best, 1], boxes[other, 1]) + pixel
            common = max(0, wide) * max(0, high)
            if common / (area[best] + area[other] - common) <= overlap:
                rest.append(other)
        order = rest
    return kept


def by_scrfd(session, image):
    height, width = image.shape[:2]
    ratio = height / width
    size = (int(SIDE / ratio), SIDE) if ratio > 1 else (SIDE, int(SIDE * ratio))
    scale = size[1] / height
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(image, size)
    x = ((canvas.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]
    outputs = session.run(None, {"input.1": x})
    scores, boxes, places = [], [], []
    for level, stride in enumerate((8, 16, 32)):
        columns = SIDE // stride
        centers = np.stack(np.mgrid[:columns, :columns][::-1], -1).reshape(-1, 2) * stride
        centers = np.repeat(centers, 2, 0).astype(np.float32)
        score, box, place = [outputs[kind + level] * (1 if kind == 0 else stride) for kind in (0, 3, 6)]
        sure = score[:, 0] >= 0.5
        scores.append(score[sure, 0])
        boxes.append(np.concatenate([centers - box[:, :2], centers + box[:, 2:]], 1)[sure])
        places.append((centers[:, None] + place.reshape(-1, 5, 2))[sure])
    scores, boxes, places = np.concatenate(scores), np.concatenate(boxes) / scale, np.concatenate(places) / scale
    kept = apart(boxes, scores, 0.4, 1)
    faces = [dict(det_score=float(scores[at]), bbox=boxes[at].tolist(), kps=places[at].tolist()) for at in kept]
    return x, outputs, faces


def by_yolo(session, image):
    height, width = image.shape[:2]
    scale = min(SIDE / height, SIDE / width)
    inner = (round(width * scale), round(height * scale))
    left, top = [((SIDE - side) % 32) / 2 for side in inner]
    resized = cv2.resize(image, inner) if inner != (width, height) else image
    sides = [round(top - 0.1), round(top + 0.1), round(left - 0.1), round(left + 0.1)]
    letter = cv2.copyMakeBorder(resized, *sides, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    x = np.ascontiguousarray(letter[:, :, ::-1].transpose(2, 0, 1))[None].astype(np.float32) / 255
    outputs = session.run(None, {"images": x})
    rows = outputs[0][0].T
    kind, score = rows[:, 4:].argmax(1), rows[:, 4:].max(1)
    rows, score = rows[(kind == 0) & (score > 0.2)], score[(kind == 0) & (score > 0.2)]
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
    kept = apart(boxes, score, 0.4, 0)
    pads = np.array([(letter.shape[1] - width * scale) / 2, (letter.shape[0] - height * scale) / 2] * 2)
    back = ((boxes[kept] - pads) / scale).clip(0, [width, height] * 2).round()
    return x, outputs, [dict(det_score=float(score[at]), bbox=box.tolist()) for at, box in zip(kept, back)]


def main():
    folder = fresh("detectors")
    rng = np.random.default_rng(2410)
    arrays = {}
    for name, make, run in [("scrfd", scrfd, by_scrfd), ("yolo", yolo, by_yolo)]:
        make(folder / f"{name}.onnx")
        session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        faces = []
        for index, (height, width) in enumerate(SIZES):
            path = folder / f"{index}.png"
            if not path.exists():
                Image.fromarray(picture(rng, height, width)).save(path)
            x, outputs, found = run(session, np.asarray(Image.open(path)))
            arrays[f"{name}.{index}.input"] = x
            arrays |= {f"{name}.{index}.output{at:02}": output for at, output in enumerate(outputs)}
            faces.append(found)
            print(name, index, len(found), "of", sum(len(o) for o in outputs[:3]) if name == "scrfd" else outputs[0].shape)
        (folder / f"{name}.json").write_text(json.dumps(faces) + "\n")
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / "io.safetensors")


if __name__ == "__main__":
    main()

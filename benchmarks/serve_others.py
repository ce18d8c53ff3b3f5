"""The frozen classifier of a bundle behind FastAPI or LitServe: what `serve.py` compares with.

Run: python benchmarks/serve_others.py fastapi quickstart/bundle 8001
"""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from litserve import LitAPI, LitServer
from PIL import Image

from acclimate.bundle import Bundle


class Frozen:
    """The classifier alone: images as base64 PNG files in JSON, classes as JSON."""

    def __init__(self, bundle: Path):
        loaded = Bundle.load(bundle)
        self.model, self.classes = loaded.classifier.eval(), loaded.classes
        shape = loaded.preprocessing
        self.mean = torch.tensor(shape.mean)[:, None, None]
        self.std = torch.tensor(shape.std)[:, None, None]

    def read(self, body: dict[str, Any]) -> torch.Tensor:
        """The images of a request, float and normalised."""
        files = (Image.open(io.BytesIO(base64.b64decode(text))) for text in body["images"])
        pixels = np.stack([np.asarray(file.convert("RGB")) for file in files])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return (images - self.mean) / self.std

    @torch.inference_mode()
    def answer(self, images: torch.Tensor) -> dict[str, Any]:
        """Class and probability of each image."""
        found = self.model(images).softmax(1).max(1)
        pairs = zip(found.values.tolist(), found.indices.tolist())
        return {"answers": [{"class": self.classes[i], "probability": p} for p, i in pairs]}


def fastapi(bundle: Path, port: int) -> None:
    """Serve with FastAPI on uvicorn; requests are answered in its pool of threads."""
    frozen, app = Frozen(bundle), FastAPI()

    @app.post("/predict")
    def predict(body: dict[str, Any]) -> dict[str, Any]:
        return frozen.answer(frozen.read(body))

    uvicorn.run(app, port=port, log_config=None, access_log=False)


class Api(LitAPI):
    """The classifier as LitServe wants it: a worker decodes, answers and encodes."""

    def __init__(self, bundle: Path):
        super().__init__()
        self.bundle = bundle

    def setup(self, device: str) -> None:
        """Load the bundle in the worker."""
        self.frozen = Frozen(self.bundle)

    def decode_request(self, request: dict[str, Any]) -> torch.Tensor:
        """The images of a request."""
        return self.frozen.read(request)

    def predict(self, x: torch.Tensor) -> dict[str, Any]:
        """The answers."""
        return self.frozen.answer(x)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """They are JSON values already."""
        return output


def litserve(bundle: Path, port: int) -> None:
    """Serve with LitServe: one worker, a request is a batch."""
    server = LitServer(Api(bundle), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": litserve}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))

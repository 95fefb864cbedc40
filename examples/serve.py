"""A service with the standard library alone: POST a model's inputs as JSON by name, get its output
as JSON. SIGHUP reads the weights again. `python examples/serve.py encoder --artifacts artifacts
--weights encoder.safetensors`"""

from __future__ import annotations

import argparse
import json
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.utils import _pytree as pytree

import aoti_build
from aoti_build.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    with aoti_build.load(arguments.model, artifacts=arguments.artifacts, explain=True) as model:
        dtypes = {
            entry["name"]: getattr(torch, entry["dtype"])
            for entry in model.metadata["signature"]["inputs"]
        }

        class Service(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                tensors = {
                    name: torch.tensor(value, dtype=dtypes.get(name))
                    for name, value in given.items()
                }
                try:
                    output = model(
                        **{name: value.to(model.device) for name, value in tensors.items()}
                    )
                    self.reply(200, pytree.tree_map_only(torch.Tensor, torch.Tensor.tolist, output))
                except InputError as error:
                    self.reply(400, {"error": error.as_json()})

            def reply(self, status: int, body: object) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

        def reload(*_: object) -> None:
            model.update_weights(load_file(arguments.weights))

        if arguments.weights:
            signal.signal(signal.SIGHUP, reload)
        with ThreadingHTTPServer(("127.0.0.1", arguments.port), Service) as server:
            print(f"{model} at http://127.0.0.1:{server.server_port}")
            server.serve_forever()


if __name__ == "__main__":
    main()

"""A FastAPI service for one model. Each worker process loads the artifact for itself.

    MODEL=encoder uvicorn --app-dir examples fastapi_service:app --workers 2

POST /predict takes the model's inputs as JSON by name, and returns its output as JSON.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, HTTPException
from torch.utils import _pytree as pytree

import aoti_build
from aoti_build.errors import InputError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model after uvicorn has started the worker, and close it when the worker ends.

    A model that is loaded when this module is imported would also be loaded in processes that
    answer no requests.
    """
    artifacts = os.environ.get("ARTIFACTS", "artifacts")
    with aoti_build.load(os.environ["MODEL"], artifacts=artifacts) as model:
        app.state.model = model
        app.state.dtypes = {
            entry["name"]: getattr(torch, entry["dtype"])
            for entry in model.metadata["signature"]["inputs"]
        }
        yield


app = FastAPI(lifespan=lifespan)


# FastAPI runs `def` functions in threads, so a call of the model does not block the event loop.
@app.post("/predict")
def predict(inputs: dict[str, Any]) -> Any:
    """Call the model. An input that does not fit its signature is answered with 422."""
    model, dtypes = app.state.model, app.state.dtypes
    try:
        tensors = {
            name: torch.tensor(value, dtype=dtypes.get(name)) for name, value in inputs.items()
        }
        output = model(**{name: tensor.to(model.device) for name, tensor in tensors.items()})
    except InputError as error:
        raise HTTPException(422, error.as_json()) from error
    except (TypeError, ValueError) as error:  # lists of unequal lengths, or no numbers
        raise HTTPException(422, str(error)) from error
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.tolist, output)


@app.get("/health")
def health() -> dict[str, Any]:
    """Which artifact this worker serves."""
    metadata = app.state.model.metadata
    return {"target": metadata["target"], "pid": os.getpid()}

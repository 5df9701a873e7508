"""KServe's own clients. Arguments: rest | rest-v2 | grpc, host:port. Prints what they saw as one line of JSON."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

protocol, address = sys.argv[1:]


def request(binary):
    rows = InferInput("input-0", [2, 4], "FP32")
    rows.set_data_from_numpy(np.array([[1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32), binary_data=binary)
    return InferRequest("fraud", [rows], request_id="k-1")


def outputs(response):
    return {output.name: output.as_numpy().tolist() for output in response.outputs}


async def rest_v2(url):
    client = InferenceRESTClient(config=RESTConfig(protocol="v2"))
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "fraud"),
        "json": outputs(await client.infer(url, request(False), model_name="fraud")),
        "binary": outputs(await client.infer(url, request(True), model_name="fraud")),
    }


async def rest(url):
    seen = {"v2": await rest_v2(url)}
    client = InferenceRESTClient(config=RESTConfig(protocol="v1"))
    seen["model_ready_v1"] = await client.is_model_ready(url, "fraud")
    seen["v1"] = await client.infer(url, {"instances": [[1, 2, 3, 4]]}, model_name="fraud")
    return seen


async def grpc():
    client = InferenceGRPCClient(url=address)
    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("fraud"),
        "raw": outputs(await client.infer(request(True))),
        "contents": outputs(await client.infer(request(False))),
    }


url = f"http://{address}"
print(json.dumps(asyncio.run({"rest": lambda: rest(url), "rest-v2": lambda: rest_v2(url), "grpc": grpc}[protocol]())))

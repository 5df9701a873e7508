"""tritonclient and answers that no model gave. Arguments: http | grpc, host:port, model. Prints what it saw as one line of JSON."""

import json
import sys

import numpy as np

protocol, address, model = sys.argv[1:]
if protocol == "http":
    import tritonclient.http as triton
else:
    import tritonclient.grpc as triton

client = triton.InferenceServerClient(address)


def inputs():
    rows = triton.InferInput("x", [2, 3], "FP32")
    rows.set_data_from_numpy(np.zeros((2, 3), dtype=np.float32))
    return [rows]


def plain(array):
    if array.dtype == object:
        return [item.decode() if isinstance(item, bytes) else item for item in array.tolist()]
    return array.tolist()


def infer(names, **how):
    asked = [triton.InferRequestedOutput(name, **how) for name in names]
    result = client.infer(model, inputs(), request_id="d-1", outputs=asked)
    return {name: plain(result.as_numpy(name)) for name in names}


every = ["score", "label", "pair"]
form = (lambda binary: {"binary_data": binary}) if protocol == "http" else (lambda binary: {})
print(
    json.dumps({"binary": infer(every, **form(True)), "json": infer(every, **form(False)), "one": infer(["pair"])})
)

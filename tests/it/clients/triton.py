"""tritonclient, as its users call it. Arguments: http | grpc, host:port. Prints what it saw as one line of JSON."""

import json
import sys

import numpy as np

protocol, address = sys.argv[1:]
if protocol == "http":
    import tritonclient.http as triton
else:
    import tritonclient.grpc as triton

client = triton.InferenceServerClient(address)


def tensors(binary):
    arrays = {
        "f": ("FP32", np.array([[0.1, -2.5], [3e38, 0.0]], dtype=np.float32)),
        "s": ("BYTES", np.array(["", "grün 🚀"], dtype=object)),
        "i": ("INT64", np.array([2**63 - 1], dtype=np.int64)),
        "b": ("BOOL", np.array([True, False])),
    }
    inputs = []
    for name, (datatype, array) in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), datatype)
        if protocol == "http":
            tensor.set_data_from_numpy(array, binary_data=binary)
        else:
            tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def outputs(binary):
    names = ["echo_f", "echo_s", "echo_i", "echo_b"]
    if protocol == "http":
        return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    return [triton.InferRequestedOutput(name) for name in names]


def plain(array):
    if array.dtype == object:
        return [item.decode() if isinstance(item, bytes) else item for item in array.tolist()]
    return array.tolist()


def infer(binary):
    result = client.infer("echo", tensors(binary), request_id="t-1", outputs=outputs(binary))
    return {name: plain(result.as_numpy(name)) for name in ["echo_f", "echo_s", "echo_i", "echo_b"]}


def error(call):
    try:
        call()
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return None


wrong = triton.InferInput("nope", [1], "INT64")
wrong.set_data_from_numpy(np.array([1], dtype=np.int64))
seen = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("echo"),
    "json": infer(False),
    "binary": infer(True),
    "metadata": client.get_model_metadata("echo") if protocol == "http" else str(client.get_model_metadata("echo")),
    "wrong_name": error(lambda: client.infer("echo", [wrong])),
}
if protocol == "grpc":
    seen["config"] = str(client.get_model_config("fraud"))
print(json.dumps(seen))

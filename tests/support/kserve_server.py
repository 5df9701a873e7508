"""KServe's model server with two models, bound to loopback.

echo:  V1 answers the instances, V2 answers every input under its name with `echo_` in front.
fraud: V1 and V2 score rows of four numbers with an sklearn regression of fixed coefficients.
"""

import grpc.aio
import numpy as np
import uvicorn
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid
from sklearn.linear_model import LinearRegression

# Both servers would listen on every interface.
configure = uvicorn.Config.__init__


def on_loopback(self, *args, **kwargs):
    kwargs["host"] = "127.0.0.1"
    configure(self, *args, **kwargs)


uvicorn.Config.__init__ = on_loopback
make_server = grpc.aio.server


def grpc_on_loopback(*args, **kwargs):
    server = make_server(*args, **kwargs)
    add = server.add_insecure_port
    server.add_insecure_port = lambda address: add("127.0.0.1:" + address.rsplit(":", 1)[1])
    return server


grpc.aio.server = grpc_on_loopback


def answer(payload, model, outputs):
    return InferResponse(
        response_id=payload.id or generate_uuid(),
        model_name=model,
        infer_outputs=outputs,
        use_binary_outputs=payload.use_binary_outputs,
        requested_outputs=payload.request_outputs,
    )


class Echo(Model):
    def __init__(self):
        super().__init__("echo")
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            return {"predictions": payload["instances"]}
        outputs = []
        for tensor in payload.inputs:
            output = InferOutput("echo_" + tensor.name, list(tensor.shape), tensor.datatype)
            output.set_data_from_numpy(tensor.as_numpy(), binary_data=True)
            outputs.append(output)
        return answer(payload, self.name, outputs)


class Fraud(Model):
    def __init__(self):
        super().__init__("fraud")
        self.model = LinearRegression()
        self.model.coef_, self.model.intercept_ = np.array([0.001, 0.01, 0.1, 1.0]), 0.0
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            return {"predictions": self.model.predict(np.array(payload["instances"], dtype=np.float64)).tolist()}
        score = self.model.predict(payload.inputs[0].as_numpy().astype(np.float64)).astype(np.float32)
        output = InferOutput("score", list(score.shape), "FP32")
        output.set_data_from_numpy(score, binary_data=True)
        return answer(payload, self.name, [output])


if __name__ == "__main__":
    ModelServer(workers=1, enable_docs_url=False).start([Echo(), Fraud()])

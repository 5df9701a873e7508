"""Scores payments by their amount alone."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        amount = pb_utils.get_input_tensor_by_name(request, "amount").as_numpy()
        score = 1.0 / (1.0 + np.exp(3.0 - 0.005 * amount.astype(np.float64)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("score", score.astype(np.float32))])
